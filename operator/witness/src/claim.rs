//! Claims of site names: which site is A and which is B, and which cluster is which site.
//!
//! Invariants: an index, once given, belongs to its name for ever; a name, once claimed, belongs to
//! its claimant until a person takes the claim away.

use serde::{Deserialize, Serialize};
use twinsite_register::Site;

use crate::witness::ReadError;

/// One claimed name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// The index that the name got with its first claim.
    pub index: Site,
    /// Name of the site.
    pub name: String,
    /// Who is this site: the UID of a kube-system namespace, or a random id.
    pub claimant: String,
}

/// All claims of a pair.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sites {
    pub claims: Vec<Claim>,
}

/// Why a name could not be claimed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "site {name} is claimed by {claimant}: two clusters say that they are the same site; give one of them its own site name"
    )]
    ClaimedByAnother { name: String, claimant: String },
    #[error("the pair already has the sites {first} and {second}: {name} would be a third one")]
    ThirdSite {
        name: String,
        first: String,
        second: String,
    },
    #[error("{0:?} cannot be the name of a site: only lower-case letters, digits and '-'")]
    BadName(String),
    #[error("others keep writing the claims: try again")]
    Contended,
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Sites {
    /// The claim of a name.
    pub fn named(&self, name: &str) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.name == name)
    }

    /// The claim of an index.
    pub fn at(&self, index: Site) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.index == index)
    }

    /// Adds a claim if the name has none; says whether anything changed.
    pub(crate) fn claim(
        &mut self,
        name: &str,
        claimant: &str,
    ) -> Result<(Claim, bool), ClaimError> {
        if !crate::store::is_segment(name) {
            return Err(ClaimError::BadName(name.to_owned()));
        }
        if let Some(claim) = self.named(name) {
            if claim.claimant != claimant {
                return Err(ClaimError::ClaimedByAnother {
                    name: name.to_owned(),
                    claimant: claim.claimant.clone(),
                });
            }
            return Ok((claim.clone(), false));
        }
        let index = match self.claims.as_slice() {
            [] => Site::A,
            [only] => only.index.other(),
            [first, second, ..] => {
                return Err(ClaimError::ThirdSite {
                    name: name.to_owned(),
                    first: first.name.clone(),
                    second: second.name.clone(),
                });
            }
        };
        let claim = Claim {
            index,
            name: name.to_owned(),
            claimant: claimant.to_owned(),
        };
        self.claims.push(claim.clone());
        Ok((claim, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_claim_of_a_name_gives_it_its_index_for_ever() {
        let mut sites = Sites::default();
        let (first, _) = sites.claim("research", "r").unwrap();
        let (second, _) = sites.claim("medical", "m").unwrap();
        assert_eq!((first.index, second.index), (Site::A, Site::B));
        assert_eq!(sites.claim("medical", "m").unwrap(), (second, false));
        assert_eq!(sites.at(Site::A).unwrap().name, "research");
    }

    #[test]
    fn a_second_claimant_and_a_third_site_are_refused() {
        let mut sites = Sites::default();
        sites.claim("medical", "m").unwrap();
        assert!(matches!(
            sites.claim("medical", "x"),
            Err(ClaimError::ClaimedByAnother { .. })
        ));
        sites.claim("research", "r").unwrap();
        assert!(matches!(
            sites.claim("third", "t"),
            Err(ClaimError::ThirdSite { .. })
        ));
        assert!(matches!(
            sites.claim("../etc", "t"),
            Err(ClaimError::BadName(_))
        ));
    }
}
