//! What should be against what is. Pure; the same for the reconciler, which mends, and for `berth doctor`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::{ContainerState, ContainerView};
use crate::ids::{ContainerId, KernelId, KernelName};
use crate::kernel::{KernelView, Phase};
use crate::scratch::Present;

/// A kernel as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Which.
    pub kernel: KernelId,
    /// Its name.
    pub name: KernelName,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its container, once it exists.
    pub container: Option<ContainerId>,
}

impl From<&KernelView> for Expected {
    fn from(view: &KernelView) -> Self {
        Self {
            kernel: view.id,
            name: view.name.clone(),
            phase: view.phase,
            container: view.container.clone(),
        }
    }
}

/// What is there of this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Its containers.
    pub containers: Vec<ContainerView>,
    /// Its folders and sockets.
    pub folders: Vec<Present>,
}

/// Where the two differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "finding")]
pub enum Finding {
    /// A kernel that should run has a container that has ended.
    ContainerEnded {
        /// Which.
        kernel: KernelId,
        /// Its name.
        name: KernelName,
        /// Its container.
        container: ContainerId,
        /// As the engine tells it.
        exit_code: Option<i32>,
        /// Killed for memory.
        oom: bool,
    },
    /// A kernel that should run has no container.
    ContainerMissing {
        /// Which.
        kernel: KernelId,
        /// Its name.
        name: KernelName,
        /// The container it had.
        container: ContainerId,
    },
    /// A container of no kernel.
    ContainerWithoutRecord {
        /// Which.
        container: ContainerId,
        /// Its name.
        name: String,
    },
    /// Folders of no kernel.
    FoldersWithoutKernel {
        /// Whose they were.
        kernel: KernelId,
        /// Which.
        folders: Vec<PathBuf>,
    },
    /// Sockets of a kernel that has ended.
    StaleSockets {
        /// Whose.
        kernel: KernelId,
        /// Its name.
        name: KernelName,
        /// Which.
        sockets: Vec<PathBuf>,
    },
}

/// Every difference between what should be and what is.
#[must_use]
pub fn look(desired: &[Expected], observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Expected { kernel, name, phase, container } in desired {
        let Some(container) = container.clone() else { continue };
        if !matches!(phase, Phase::Started | Phase::Running) {
            continue;
        }
        let (kernel, name) = (*kernel, name.clone());
        match observed.containers.iter().find(|view| view.id == container).map(|view| &view.state) {
            Some(ContainerState::Exited { code, oom_killed }) => {
                let (exit_code, oom) = (*code, *oom_killed);
                findings.push(Finding::ContainerEnded { kernel, name, container, exit_code, oom });
            }
            Some(ContainerState::Created | ContainerState::Running) => {}
            None => findings.push(Finding::ContainerMissing { kernel, name, container }),
        }
    }
    let known: BTreeSet<KernelId> = desired.iter().map(|expected| expected.kernel).collect();
    for view in &observed.containers {
        if view.kernel().is_none_or(|kernel| !known.contains(&kernel)) {
            let (container, name) = (view.id.clone(), view.name.clone());
            findings.push(Finding::ContainerWithoutRecord { container, name });
        }
    }
    for Present { kernel, folders, sockets } in &observed.folders {
        match desired.iter().find(|expected| expected.kernel == *kernel) {
            None => {
                findings.push(Finding::FoldersWithoutKernel { kernel: *kernel, folders: folders.clone() })
            }
            // Its actor unlinks them before it writes down the end.
            Some(expected) if expected.phase == Phase::Collected && !sockets.is_empty() => {
                let (name, sockets) = (expected.name.clone(), sockets.clone());
                findings.push(Finding::StaleSockets { kernel: *kernel, name, sockets });
            }
            Some(_) => {}
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::LABEL_KERNEL_ID;

    fn kernel(number: u8) -> KernelId {
        format!("00000000-0000-0000-0000-0000000000{number:02x}").parse().unwrap()
    }

    fn expected(number: u8, phase: Phase, container: Option<&str>) -> Expected {
        let container = container.map(|id| id.parse().unwrap());
        Expected { kernel: kernel(number), name: format!("k{number}").parse().unwrap(), phase, container }
    }

    fn container(id: &str, of: Option<u8>, state: ContainerState) -> ContainerView {
        let label = of.map(|number| (LABEL_KERNEL_ID.to_owned(), kernel(number).to_string()));
        ContainerView {
            id: id.parse().unwrap(),
            name: format!("kernel.{id}"),
            labels: label.into_iter().collect::<BTreeMap<_, _>>(),
            image: "i".to_owned(),
            state,
            pid: None,
        }
    }

    fn present(number: u8, sockets: &[&str]) -> Present {
        let folder = PathBuf::from(format!("/link/{number}"));
        let sockets = sockets.iter().map(|name| folder.join(name)).collect();
        Present { kernel: kernel(number), folders: vec![folder], sockets }
    }

    #[test]
    fn what_is_as_it_should_be_is_not_found() {
        let desired = [
            expected(1, Phase::Running, Some("c1")),
            expected(2, Phase::Prepared, None),
            expected(3, Phase::Collected, Some("c3")),
            // The container is being made, or has just been removed.
            expected(4, Phase::Created, Some("c4")),
            expected(5, Phase::Stopping, Some("c5")),
        ];
        let containers = vec![
            container("c1", Some(1), ContainerState::Running),
            container("c3", Some(3), ContainerState::Exited { code: Some(0), oom_killed: false }),
        ];
        let folders = vec![present(1, &["in", "out"]), present(2, &["in"]), present(3, &[])];
        assert_eq!(look(&desired, &Observed { containers, folders }), []);
    }

    #[test]
    fn every_difference_is_found_once() {
        let desired = [
            expected(1, Phase::Running, Some("c1")),
            expected(2, Phase::Started, Some("c2")),
            expected(3, Phase::Collected, Some("c3")),
        ];
        let containers = vec![
            container("c1", Some(1), ContainerState::Exited { code: Some(137), oom_killed: true }),
            container("c8", Some(8), ContainerState::Running),
            container("c9", None, ContainerState::Created),
        ];
        let folders = vec![present(1, &["in"]), present(3, &["in"]), present(7, &[])];
        let name = |number: u8| format!("k{number}").parse::<KernelName>().unwrap();
        let id = |id: &str| id.parse::<ContainerId>().unwrap();
        let without_record =
            |it: &str| Finding::ContainerWithoutRecord { container: id(it), name: format!("kernel.{it}") };
        assert_eq!(
            look(&desired, &Observed { containers, folders }),
            [
                Finding::ContainerEnded {
                    kernel: kernel(1),
                    name: name(1),
                    container: id("c1"),
                    exit_code: Some(137),
                    oom: true,
                },
                Finding::ContainerMissing { kernel: kernel(2), name: name(2), container: id("c2") },
                without_record("c8"),
                without_record("c9"),
                Finding::StaleSockets {
                    kernel: kernel(3),
                    name: name(3),
                    sockets: vec!["/link/3/in".into()],
                },
                Finding::FoldersWithoutKernel { kernel: kernel(7), folders: vec!["/link/7".into()] },
            ]
        );
    }
}
