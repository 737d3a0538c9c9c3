//! berth: the worker-node agent of a Backend.AI cluster. `docs/ARCHITECTURE.md` has the map.

pub mod admission;
pub mod agent;
pub mod amount;
pub mod config;
pub mod engine;
pub mod events;
pub mod ids;
pub mod images;
pub mod kernel;
pub mod policy;
pub mod route;
pub mod store;
pub mod control;
pub mod inventory;
