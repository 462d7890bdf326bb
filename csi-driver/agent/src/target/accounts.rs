//! CHAP accounts in a text file, for a target started by hand.
//!
//! ```text
//! # comment
//! user NAME SECRET [INITIATOR]     an initiator may log in with this (INITIATOR: only the one of this iSCSI name)
//! target NAME SECRET               what this target proves itself with, if an initiator asks (at most one)
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use twinsite_iscsi::chap::{Secret, SecretError};
use twinsite_iscsi::session::{Account, Auth};

/// What is wrong with an account file. No message shows a secret.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    #[error("can not read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("line {0}: expected `user NAME SECRET [INITIATOR]` or `target NAME SECRET`")]
    Line(usize),
    #[error("line {line}")]
    Secret { line: usize, source: SecretError },
    #[error("line {0}: the name is there already")]
    Twice(usize),
    #[error("the accounts do not go together")]
    Together(#[source] SecretError),
    #[error("no user is named: nobody could log in")]
    NoUser,
}

pub fn read_accounts(path: &Path) -> Result<Auth, AccountsError> {
    let text = std::fs::read_to_string(path).map_err(|source| AccountsError::Read {
        path: path.into(),
        source,
    })?;
    parse(&text)
}

fn parse(text: &str) -> Result<Auth, AccountsError> {
    let mut accounts = BTreeMap::new();
    let mut own = None;
    for (number, line) in (1..).zip(text.lines()) {
        let secret = |text: &str| {
            Secret::new(text.as_bytes()).map_err(|source| AccountsError::Secret {
                line: number,
                source,
            })
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["user", name, text] | ["user", name, text, _] => {
                let initiator = words.get(3).map(|name| (*name).to_owned());
                let account = Account {
                    secret: secret(text)?,
                    initiator,
                };
                if accounts.insert(name.to_owned(), account).is_some() {
                    return Err(AccountsError::Twice(number));
                }
            }
            ["target", name, text] => {
                if own.replace((name.to_owned(), secret(text)?)).is_some() {
                    return Err(AccountsError::Twice(number));
                }
            }
            _ => return Err(AccountsError::Line(number)),
        }
    }
    if accounts.is_empty() {
        return Err(AccountsError::NoUser);
    }
    Auth::chap(accounts, own).map_err(AccountsError::Together)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_with_their_limits() {
        let text = "# who\nuser alice correct-horse-1 iqn.2026-01.test:a\n\nuser bob battery-staple-2\ntarget me another-secret-3\n";
        let Ok(Auth::Chap { accounts, mutual }) = parse(text) else {
            panic!("it parses")
        };
        assert_eq!(accounts.keys().collect::<Vec<_>>(), ["alice", "bob"]);
        assert_eq!(
            accounts["alice"].initiator.as_deref(),
            Some("iqn.2026-01.test:a")
        );
        assert_eq!(accounts["bob"].initiator, None);
        assert_eq!(mutual.map(|(name, _)| name).as_deref(), Some("me"));
    }

    #[test]
    fn mistakes_are_named_by_line_and_show_no_secret() {
        assert!(matches!(parse("user a\n"), Err(AccountsError::Line(1))));
        assert!(matches!(
            parse("\nuser a short\n"),
            Err(AccountsError::Secret { line: 2, .. })
        ));
        assert!(matches!(
            parse("target t long-enough-secret\n"),
            Err(AccountsError::NoUser)
        ));
        let twice = "user a long-enough-secret\nuser a long-enough-secret\n";
        assert!(matches!(parse(twice), Err(AccountsError::Twice(2))));
        let Err(error) = parse("user a shortsecret\n") else {
            panic!("too short")
        };
        assert!(!format!("{error:?} {error}").contains("shortsecret"));
    }
}
