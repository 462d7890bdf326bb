//! One row of the catalogue.

/// Where a row runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Run {
    /// A scripted scenario of the simulator; run by this program.
    Sim(&'static str),
    /// Configuration and flag of the models: the rule switched off must fail (`make model`).
    Model(&'static str, &'static str),
    /// A named test somewhere in the tree.
    Test(&'static str),
    /// Real processes: what to run.
    Process(&'static str),
    /// Not here, and why.
    Not(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub number: u32,
    pub fault: &'static str,
    pub inject: &'static str,
    pub expect: &'static str,
    pub runs: &'static [Run],
}

pub const fn row(
    number: u32,
    fault: &'static str,
    inject: &'static str,
    expect: &'static str,
    runs: &'static [Run],
) -> Row {
    Row {
        number,
        fault,
        inject,
        expect,
        runs,
    }
}
