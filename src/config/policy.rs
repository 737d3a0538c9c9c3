//! `[policy]`: which modules decide, with which settings, grants and budgets. The section's type is the
//! policy host's own ([`policy::Config`]).

use crate::policy;

use super::reader::Reader;

/// Reads and validates the section.
pub(super) fn read(reader: &mut Reader) -> policy::Config {
    reader.whole("policy");
    let config: policy::Config = reader.get("policy", policy::Config::default());
    for problem in config.problems() {
        reader.mistake("policy", &problem);
    }
    config
}
