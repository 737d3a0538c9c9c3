//! `[policy]`: which modules decide, with which settings, grants and budgets. The section's type is the
//! policy host's own ([`policy::Config`]).

use crate::policy;

use super::reader::Reader;

/// Reads and validates the section; with `builtin` every world uses the built-in, whatever it says.
pub(super) fn read(reader: &mut Reader, builtin: bool) -> policy::Config {
    reader.whole("policy");
    let mut config: policy::Config = reader.get("policy", policy::Config::default());
    if builtin {
        config.use_builtin();
        reader.note("policy", &config);
    }
    for problem in config.problems() {
        reader.mistake("policy", &problem);
    }
    config
}
