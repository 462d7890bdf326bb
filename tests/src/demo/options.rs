//! What the demo is asked for, from the environment: `make demo KILL=research FS=xfs`.

use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use crate::pair::FileSystem;

/// Records at which the plug is pulled if nothing else was said.
const DEFAULT_RECORDS: u64 = 1500;

/// How to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Index of the site that dies first.
    pub kill: usize,
    pub fs: FileSystem,
    /// Bytes of the volume.
    pub size: u64,
    /// Acknowledged records at which the plug is pulled.
    pub at: u64,
    /// Rounds of random kills instead of the told story; 0: the story.
    pub rounds: u32,
    /// Deaths of the run that waits for no good moment; 0: none.
    pub kills: u32,
    pub seed: u64,
}

impl Options {
    /// Reads them through `variable`.
    ///
    /// # Errors
    /// A value that is none of those that can be had, with those that can.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let kill = match variable("KILL").as_deref() {
            None | Some("medical" | "active") => 0,
            Some("research" | "standby") => 1,
            Some(other) => bail!("KILL={other}: say medical or research"),
        };
        let fs = match variable("FS").as_deref() {
            None | Some("ext4") => FileSystem::Ext4,
            Some("xfs") => FileSystem::Xfs,
            Some(other) => bail!("FS={other}: say ext4 or xfs"),
        };
        let size: twinsite_api::Quantity = variable("SIZE")
            .unwrap_or_else(|| "2Gi".into())
            .parse()
            .context("SIZE: say for example 2Gi")?;
        if size.bytes() < 512 << 20 {
            bail!("SIZE={size}: at least 512Mi, or xfs has no room for its log");
        }
        let at = match variable("AT") {
            None => DEFAULT_RECORDS,
            Some(text) => at(&text)?,
        };
        Ok(Self {
            kill,
            fs,
            size: size.bytes(),
            at,
            rounds: number(&variable, "ROUNDS")?.unwrap_or(0),
            kills: number(&variable, "KILLS")?.unwrap_or(0),
            seed: number(&variable, "SEED")?.unwrap_or_else(|| u64::from(std::process::id())),
        })
    }
}

/// A fraction of the default number of records, or a number of records.
fn at(text: &str) -> Result<u64> {
    if let Ok(records) = text.parse::<u64>() {
        return Ok(records.max(1));
    }
    let fraction = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    let fraction: f64 = fraction.with_context(|| {
        format!("AT={text}: say a part of the run like 0.5, or the number of a record")
    })?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0..=1500"
    )]
    let records = (fraction * DEFAULT_RECORDS as f64) as u64;
    Ok(records.max(1))
}

fn number<T: FromStr>(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    variable(name)
        .map(|text| {
            text.parse()
                .with_context(|| format!("{name}={text}: say a number, such as 30"))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Options> {
        Options::read(|name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn half_way_is_half_of_the_default_and_a_number_is_a_number() {
        assert_eq!(read(&[("AT", "0.5")]).unwrap().at, 750);
        assert_eq!(read(&[("AT", "42")]).unwrap().at, 42);
    }

    #[test]
    fn a_wrong_value_says_what_to_say() {
        let error = read(&[("KILL", "mars")]).unwrap_err().to_string();
        assert_eq!(error, "KILL=mars: say medical or research");
        let error = read(&[("AT", "2.5")]).unwrap_err().to_string();
        assert!(error.contains("a part of the run like 0.5"), "{error}");
        assert!(read(&[("SIZE", "1Mi")]).is_err());
        assert!(read(&[("ROUNDS", "many")]).is_err());
    }
}
