//! `[kernel-runner]`: the program inside kernels.

use std::path::{Path, PathBuf};

use super::reader::Reader;

/// `[kernel-runner]`
#[derive(Debug, Clone)]
pub struct KernelRunnerSection {
    /// `path`; none: in `../libexec/berth`, else beside this program (design §5).
    pub path: Option<PathBuf>,
}

impl KernelRunnerSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self { path: reader.optional("kernel-runner.path") }
    }

    /// The runner's file, or a sentence that says where it was looked for.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self) -> Result<PathBuf, String> {
        if let Some(path) = &self.path {
            return if path.is_file() {
                Ok(path.clone())
            } else {
                Err(format!("[kernel-runner] path {} is no file", path.display()))
            };
        }
        let program =
            std::env::current_exe().map_err(|error| format!("cannot tell where berth lies: {error}"))?;
        let beside = program.parent().unwrap_or(Path::new("/"));
        // In this order: cargo may have put one beside `berth` that needs a dynamic loader.
        let candidates = [beside.join("../libexec/berth/berth-runner"), beside.join("berth-runner")];
        candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
            format!(
                "berth-runner was not found: looked for {} and {}",
                candidates[0].display(),
                candidates[1].display()
            )
        })
    }
}
