//! The WIT as Rust, one module per interface. Made by `wit-bindgen` from `wit/policy.wit`.
//!
//! A world that exports one interface each, instead of the WIT's three: the names of the macros that export
//! them to the linker are unique then, and each policy uses two of them, `about` and its own. `wit-component`
//! makes one world of what it finds in a module, and the agent knows a policy by the interfaces that it exports.
#![allow(missing_docs, unsafe_code, reason = "generated from wit/policy.wit")]

macro_rules! interface {
    ($module:ident, $inline:literal, $as:literal) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: "wit",
                inline: $inline,
                with: {
                    "berth:policy/types@0.2.0": crate::bindings::base::berth::policy::types,
                },
                additional_derives: [PartialEq],
                generate_all,
                generate_unused_types: true,
                runtime_path: "berth_guest::wit_bindgen::rt",
                default_bindings_module: $as,
                pub_export_macro: true,
            });
        }
    };
}

/// What all share.
pub mod base {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package berth:guest; world base { import berth:policy/types@0.2.0; import berth:policy/host@0.2.0; }",
        additional_derives: [PartialEq],
        generate_all,
        generate_unused_types: true,
        runtime_path: "berth_guest::wit_bindgen::rt",
    });
}

interface!(
    about,
    "package berth:guest; world about { export berth:policy/about@0.2.0; }",
    "berth_guest::bindings::about"
);
interface!(
    reporting,
    "package berth:guest; world reporting { export berth:policy/reporting@0.2.0; }",
    "berth_guest::bindings::reporting"
);
interface!(
    scheduling,
    "package berth:guest; world scheduling { export berth:policy/scheduling@0.2.0; }",
    "berth_guest::bindings::scheduling"
);
interface!(
    configuring,
    "package berth:guest; world configuring { export berth:policy/configuring@0.2.0; }",
    "berth_guest::bindings::configuring"
);
