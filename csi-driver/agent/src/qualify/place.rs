//! `iscsi://[user%secret@]host:port/iqn/lun`: where a LUN is.

use std::str::FromStr;

use twinsite_iscsi::chap::Secret;
use twinsite_iscsi::scsi::Lun;
use twinsite_iscsi::session::ChapInitiator;

/// A LUN and how to log in to it. Errors never repeat the secret.
#[derive(Clone, Debug)]
pub struct Place {
    pub portal: String,
    pub iqn: String,
    pub lun: Lun,
    pub chap: Option<ChapInitiator>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write iscsi://[user%secret@]host:port/iqn/lun, such as iscsi://192.0.2.7:3260/iqn.2026-01.org.example:disk/0";
        let rest = text.strip_prefix("iscsi://").ok_or(FORM)?;
        let (rest, lun) = rest.rsplit_once('/').ok_or(FORM)?;
        let (head, iqn) = rest.rsplit_once('/').ok_or(FORM)?;
        let (account, portal) = match head.rsplit_once('@') {
            Some((account, portal)) => (Some(account), portal),
            None => (None, head),
        };
        let (_, port) = portal.rsplit_once(':').ok_or(FORM)?;
        if iqn.is_empty() {
            return Err(FORM.into());
        }
        port.parse::<u16>().map_err(|_| {
            format!("{port:?} is no port: write a number up to 65535, such as 3260")
        })?;
        let chap = account
            .map(|account| {
                let (user, secret) = account.split_once('%').ok_or(FORM.to_owned())?;
                let secret = Secret::new(secret.as_bytes()).map_err(|error| error.to_string())?;
                Ok::<_, String>(ChapInitiator::new(user.to_owned(), secret))
            })
            .transpose()?;
        let number = lun
            .parse()
            .map_err(|_| format!("{lun:?} is no LUN: write a number, such as 0"))?;
        Ok(Self {
            portal: portal.to_owned(),
            iqn: iqn.to_owned(),
            lun: Lun::from_number(number),
            chap,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_half_of_one_refused() {
        let text = "iscsi://joe%a-secret@of@12@[::1]:3260/iqn.2026-01.x:a/7";
        let place: Place = text.parse().expect("reads");
        assert_eq!(place.portal, "[::1]:3260");
        assert_eq!(place.iqn, "iqn.2026-01.x:a");
        assert_eq!(place.lun, Lun::from_number(7));
        assert!(place.chap.is_some());
        assert!(!format!("{place:?}").contains("a-secret"));
        for bad in [
            "http://a:1/b/1",
            "iscsi://a:1/iqn",
            "iscsi://a/iqn/1",
            "iscsi://a:99999/iqn/1",
            "iscsi://a:1/iqn/x",
            "iscsi://joe%short@a:1/iqn/1",
            "iscsi://joe@a:1/iqn/1",
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
