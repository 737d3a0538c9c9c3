//! The SDK for policies of berth in Rust: a policy's source is its decision and little else.
//!
//! ```
//! use berth_guest::settings::{Integer, Key, integer};
//! use berth_guest::{Context, Choice, KernelRequest, Node, Placement, Refusal, Scheduler, policy};
//!
//! const MOST: Key<Integer> = integer("most-kernels", "Kernels that one session may have.").default(8).range(1, 512);
//!
//! policy! {
//!     world: scheduler,
//!     summary: "Refuses clusters that are too large",
//!     settings: [MOST],
//! }
//!
//! impl Scheduler for Policy {
//!     fn place(ctx: &Context, request: &KernelRequest, _: &Node, _: &Choice) -> Result<Placement, Refusal> {
//!         if i64::from(request.cluster_size) > MOST.get(&ctx.settings) {
//!             return Err(Refusal::new("cluster-too-large", "a session has at most that many kernels here"));
//!         }
//!         Ok(Placement::default())
//!     }
//! }
//! # fn main() {
//! use berth_guest::testing::{Machine, context};
//! let machine = Machine::new().cores(4);
//! let request = machine.request(&[("cpu", 2_000_000)]);
//! let ctx = context::<Policy>(&[]);
//! let choice = machine.choice(&request);
//! assert_eq!(Policy::place(&ctx, &request, &machine.node(), &choice), Ok(Placement::default()));
//! # }
//! ```
//!
//! [`policy!`] names the policy and says what it may be told; one of [`SlotReporter`], [`Scheduler`] and
//! [`ContainerConfig`] is what it decides. What an answer leaves out the agent's built-in decides, so the
//! functions that a policy does not write, and the empty answers of those it writes, are the built-in's.
//! `settings` has typed settings, `testing` what `cargo test` needs to call a policy on this machine.
//!
//! # The allocator
//!
//! The agent gives each call a fresh instance and drops it afterwards, so nothing has to be freed: the
//! allocator that comes with this crate only adds. With `--initial-memory=196608` a usual call never grows its
//! memory, which saves two `mprotect` calls and 7 to 9 µs (measured against std's allocator). The price: **an
//! instance must never be reused**, it would run into its memory limit. Guests are linked with
//! `-zstack-size=65536 --initial-memory=196608`; `cargo xtask guests` does so.

// The macros of `bindings` name this crate as a policy does.
extern crate self as berth_guest;

mod about;
#[cfg(target_arch = "wasm32")]
mod arena;
#[doc(hidden)]
pub mod bindings;
mod calendar;
pub mod settings;
mod shorthand;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod worlds;

pub use about::About;
#[doc(hidden)]
pub use wit_bindgen;
pub use worlds::{ContainerConfig, Scheduler, SlotReporter};

/// What all worlds share.
pub use bindings::base::berth::policy::types;
/// What `container-config` answers.
pub use bindings::configuring::exports::berth::policy::configuring;
/// What `slot-reporter` answers.
pub use bindings::reporting::exports::berth::policy::reporting;
/// What `scheduler` answers.
pub use bindings::scheduling::exports::berth::policy::scheduling;

pub use bindings::base::berth::policy::host::Level;
pub use calendar::Local;
pub use configuring::{Edit, Mount, MountKind, Plan, TextFile, Ulimit, Variable};
pub use reporting::{Inventory, Offer, Offering, Reservation, SlotOffer, Withheld};
pub use scheduling::{
    Choice, Decision, Eviction, Kinship, Link, Load, Placement, Pressure, RunningKernel, Stock, Strategy,
    Tally, Tenant, Verdict,
};
pub use types::{
    Context, Device, DeviceKind, DeviceModel, Health, KernelRequest, Node, Refusal, SessionKind, Setting,
    SettingValue, Share, Slot, SlotKind, Want,
};

#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ALLOCATOR: arena::Arena = arena::Arena::new();

/// Micro-units of one whole device: a core, a GPU.
pub const ONE: u64 = 1_000_000;

/// Writes a line into the agent's log (in a test: to standard error).
pub fn log(level: Level, text: &str) {
    #[cfg(target_arch = "wasm32")]
    bindings::base::berth::policy::host::log(level, text);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {text}");
}
