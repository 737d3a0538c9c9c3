//! References to images (contracts: manager §1.6).

/// What of the manager's `ImageRef` matters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageRef {
    /// Name within the project; may be empty.
    pub name: String,
    /// Project in the registry.
    pub project: Option<String>,
    /// Tag.
    pub tag: String,
    /// Registry's host, perhaps with a port.
    pub registry: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// Never pulled; Docker knows it by [`short`](ImageRef::short).
    pub is_local: bool,
}

impl ImageRef {
    /// The full name, `registry/project/name:tag`; parts that are empty are left out with their separator.
    #[must_use]
    pub fn canonical(&self) -> String {
        self.joined(Some(&self.registry))
    }

    /// The name without the registry.
    #[must_use]
    pub fn short(&self) -> String {
        self.joined(None)
    }

    fn joined(&self, registry: Option<&str>) -> String {
        let parts = [registry, self.project.as_deref(), Some(&self.name)];
        let parts: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        let mut name = parts.join("/");
        if !self.tag.is_empty() {
            name.push(':');
            name.push_str(&self.tag);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_are_empty_are_left_out() {
        let full = ImageRef {
            name: "python".into(),
            project: Some("stable".into()),
            tag: "3.9-ubuntu20.04".into(),
            registry: "cr.backend.ai".into(),
            architecture: "x86_64".into(),
            is_local: false,
        };
        let check = |image: &ImageRef, canonical: &str, short: &str| {
            assert_eq!((image.canonical().as_str(), image.short().as_str()), (canonical, short));
        };
        check(&full, "cr.backend.ai/stable/python:3.9-ubuntu20.04", "stable/python:3.9-ubuntu20.04");
        let no_project = ImageRef { project: None, ..full.clone() };
        check(&no_project, "cr.backend.ai/python:3.9-ubuntu20.04", "python:3.9-ubuntu20.04");
        let no_name = ImageRef { name: String::new(), ..full };
        check(&no_name, "cr.backend.ai/stable:3.9-ubuntu20.04", "stable:3.9-ubuntu20.04");
    }
}
