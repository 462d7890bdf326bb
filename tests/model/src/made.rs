//! Which mistakes are made in one run: flags of its command line, found in the list of the model. None: all rules are on.

/// The mistakes that are made, by their numbers in the list of the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Made(u64);

impl Made {
    /// Flags joined by `+`, or none.
    pub fn of(flags: &[&str], number: impl Fn(&str) -> Option<usize>) -> Result<Self, String> {
        let mut made = 0;
        for flag in flags.iter().flat_map(|flags| flags.split('+')) {
            made |= 1 << number(flag).ok_or_else(|| format!("unknown flag {flag}"))?;
        }
        Ok(Self(made))
    }

    pub fn is(self, number: usize) -> bool {
        self.0 >> number & 1 == 1
    }
}
