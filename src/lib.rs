//! berth: the worker-node agent of a Backend.AI cluster, whose decisions are WebAssembly policies.
//!
//! The map (`docs/ARCHITECTURE.md` has the long form). Every long-running task, what it takes in, what it
//! puts out, over which channel:
//!
//! | task | runs on | takes in | puts out |
//! |---|---|---|---|
//! | kernel actor, one per kernel ([`kernel`]) | workers | commands (`mpsc`), reports of the route (`mpsc`), lease count (`watch`) | its view (`watch`), progress (`mpsc`), events ([`events`]), records ([`store`]) |
//! | admission ([`admission`]) | workers | requests with a reply (`mpsc`, `oneshot`), given-back shares, the offer (`watch`) | shares, start permits |
//! | inventory ([`inventory`]) | workers | time | the offer (`watch`) |
//! | reconciler ([`kernel::reconcile`]) | workers | engine events (`mpsc`), time | commands to actors |
//! | drain ([`drain`]) | workers | the drain's state (`watch`), time | stops of kernels |
//! | `route-0` ([`route`]) | own OS thread | requests (queue and wake-up), ZeroMQ of kernels and of the door ([`manager::door`]) | output with credit, results, reports |
//! | `route-results` ([`route`]) | own OS thread | large results to be decoded (`std::sync::mpsc`) | answers for the door |
//! | `policy-0..n`, `policy-clock` ([`policy`]) | own OS threads | questions (bounded queue) | checked answers (`oneshot`) |
//! | membership ([`manager::membership`]) | workers | etcd | where Redis is (`watch`), the node's status in etcd |
//! | `heartbeat` ([`manager::heartbeat`]) | own OS thread | the offer, where Redis is (`watch`) | heartbeats in Redis |
//! | methods ([`manager::methods`]), a task per call | workers | calls that the door hands on (`mpsc`) | answers for the door (queue of the route) |
//! | `messenger` ([`manager::messenger`]) | own OS thread | events (bounded queue), where Redis is (`watch`) | events in Redis |
//! | images ([`manager::methods::images`]), a task per image | workers | images that a manager wants (`mpsc`) | pulls, events |
//! | `pulse` ([`pulse`]) | own OS thread | counters of the supervisor, admission and routes | the watchdog's food; ends the process when one stands still |
//! | `policy-journal` ([`policy::journal`]) | own OS thread | decisions (bounded queue, dropped when full) | JSON lines on disk |
//! | policy-demotions ([`policy::swap`]) | workers | demotions (`watch`) | rows ([`store`]) |
//! | `admin` ([`control`]) | own OS thread | HTTP on a unix socket | answers, streams |
//! | `files`, one per transfer ([`kernel::files`]) | own OS threads | pieces (`mpsc`) | files, pieces (`mpsc`) |
//! | `store` ([`store`]) | own OS thread | writes with a reply (bounded queue) | rows on disk |
//!
//! [`agent`] starts and ends them; [`cli`] speaks to a running agent by [`control`] only.

pub mod admission;
pub mod agent;
pub mod amount;
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod drain;
pub mod engine;
pub mod events;
pub mod failpoint;
pub mod ids;
pub mod images;
pub mod inventory;
pub mod kernel;
pub mod manager;
pub mod policy;
pub mod pulse;
pub mod route;
pub mod scratch;
pub mod store;
pub mod tree;
