//! What a policy says of itself, in one place: [`policy!`](crate::policy).

use crate::bindings::about::exports::berth::policy::about::{Guest, PolicyInfo, SettingInfo};
use crate::settings::{Spec, check};
use crate::types::Setting;

/// What a policy is called and what it may be told. Written by [`policy!`](crate::policy).
pub trait About {
    /// The crate's name.
    const NAME: &'static str;
    /// The crate's version.
    const VERSION: &'static str;
    /// One line, for lists.
    const SUMMARY: &'static str;
    /// The settings that it knows; the agent refuses others.
    const SETTINGS: &'static [Spec] = &[];
    /// The image labels it wants to see: whole keys, or prefixes that end in `*`.
    const IMAGE_LABELS: &'static [&'static str] = &[];
    /// The kinds of edit it makes, which the operator must grant.
    const NEEDS: &'static [&'static str] = &[];

    /// What is wrong with settings beyond their types and ranges: a sentence each that begins with the key.
    fn problems(_: &[Setting]) -> Vec<String> {
        Vec::new()
    }
}

/// Names a policy and declares what it may be told. Goes before `impl` [`SlotReporter`](crate::SlotReporter),
/// [`Scheduler`](crate::Scheduler) or [`ContainerConfig`](crate::ContainerConfig) `for Policy`.
///
/// Name and version are the crate's. All but `world` and `summary` may be left out; the order is this one:
///
/// ```
/// # use berth_guest::settings::{Integer, Key, integer};
/// # use berth_guest::{Choice, Context, KernelRequest, Node, Placement, Refusal, Scheduler, Setting, policy};
/// const LIMIT: Key<Integer> = integer("limit", "Kernels at a time.").default(4);
///
/// policy! {
///     world: scheduler,                      // or slot-reporter, container-config
///     summary: "One line, for lists",
///     settings: [LIMIT],
///     image_labels: &["org.example.*"],      // only these are sent
///     needs: &[],                            // edits, in container-config only
///     check: check,                          // what types and ranges cannot say
/// }
///
/// fn check(settings: &[Setting]) -> Vec<String> {
///     if LIMIT.get(settings) % 2 == 0 { Vec::new() } else { vec!["limit: must be even".to_owned()] }
/// }
///
/// impl Scheduler for Policy {}
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! policy {
    (
        world: $($world:ident)-+,
        summary: $summary:expr,
        $(settings: [$($setting:expr),* $(,)?],)?
        $(image_labels: $image_labels:expr,)?
        $(needs: $needs:expr,)?
        $(check: $check:expr,)?
    ) => {
        /// The policy of this crate.
        pub struct Policy;

        impl $crate::About for Policy {
            const NAME: &'static str = env!("CARGO_PKG_NAME");
            const VERSION: &'static str = env!("CARGO_PKG_VERSION");
            const SUMMARY: &'static str = $summary;
            $(const SETTINGS: &'static [$crate::settings::Spec] = &[$($setting.spec()),*];)?
            $(const IMAGE_LABELS: &'static [&'static str] = $image_labels;)?
            $(const NEEDS: &'static [&'static str] = $needs;)?
            $(
                fn problems(settings: &[$crate::Setting]) -> Vec<String> {
                    $check(settings)
                }
            )?
        }

        $crate::export_world!($($world)-+);
    };
}

/// The exports of a world, for the linker.
#[doc(hidden)]
#[macro_export]
macro_rules! export_world {
    (slot-reporter) => { $crate::export_world!(@ reporting SlotReporter); };
    (scheduler) => { $crate::export_world!(@ scheduling Scheduler); };
    (container-config) => { $crate::export_world!(@ configuring ContainerConfig); };
    (@ $interface:ident $decides:ident) => {
        const _: fn() = || {
            fn decides<P: $crate::$decides>() {}
            decides::<Policy>();
        };

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "generated from the WIT: symbols that the agent calls")]
        const _: () = {
            $crate::bindings::about::export!(Policy with_types_in $crate::bindings::about);
            $crate::bindings::$interface::export!(Policy with_types_in $crate::bindings::$interface);
        };
    };
    ($($other:tt)*) => {
        compile_error!("`world` must be slot-reporter, scheduler or container-config");
    };
}

impl<P: About> Guest for P {
    fn describe() -> PolicyInfo {
        PolicyInfo {
            name: P::NAME.to_owned(),
            version: P::VERSION.to_owned(),
            summary: P::SUMMARY.to_owned(),
            settings: P::SETTINGS.iter().map(setting_info).collect(),
            image_labels: P::IMAGE_LABELS.iter().map(|label| (*label).to_owned()).collect(),
            needs: P::NEEDS.iter().map(|need| (*need).to_owned()).collect(),
        }
    }

    fn check_settings(settings: Vec<Setting>) -> Result<(), Vec<String>> {
        let mut problems = check(P::SETTINGS, &settings);
        problems.extend(P::problems(&settings));
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

fn setting_info(spec: &Spec) -> SettingInfo {
    SettingInfo { key: spec.key(), default_value: spec.default_value(), help: spec.help.to_owned() }
}
