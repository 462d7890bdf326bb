//! Claims of site names: which site is A and which is B, and which cluster is which site.
//!
//! Invariants: an index, once given, belongs to its name for ever; a name, once claimed, belongs to
//! its claimant until a person says, by that claimant's id, that it is gone for good.

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
    #[error(
        "site {name} cannot be {wanted}: the witness says that {wanted} is {taken}; the objects of this node give the legs the wrong way round"
    )]
    OtherIndex {
        name: String,
        wanted: Site,
        taken: String,
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

    /// Adds a claim if the name has none; says whether anything changed. `wanted`: the index that the
    /// claimant's objects already use; without one the next free index is given. `gone`: the claimant of which a person
    /// says that it is gone for good; its claim, index and all, passes on.
    pub(crate) fn claim(
        &mut self,
        name: &str,
        claimant: &str,
        wanted: Option<Site>,
        gone: Option<&str>,
    ) -> Result<(Claim, bool), ClaimError> {
        if !crate::store::is_segment(name) {
            return Err(ClaimError::BadName(name.to_owned()));
        }
        let other_index = |wanted: Site, taken: String| ClaimError::OtherIndex {
            name: name.to_owned(),
            wanted,
            taken,
        };
        if let Some(claim) = self.claims.iter_mut().find(|claim| claim.name == name)
            && gone == Some(claim.claimant.as_str())
            && claim.claimant != claimant
        {
            claimant.clone_into(&mut claim.claimant);
            return Ok((claim.clone(), true));
        }
        if let Some(claim) = self.named(name) {
            if claim.claimant != claimant {
                return Err(ClaimError::ClaimedByAnother {
                    name: name.to_owned(),
                    claimant: claim.claimant.clone(),
                });
            }
            return match wanted {
                Some(wanted) if wanted != claim.index => {
                    let taken = self
                        .at(wanted)
                        .map_or_else(|| "free".to_owned(), |claim| claim.name.clone());
                    Err(other_index(wanted, taken))
                }
                Some(_) | None => Ok((claim.clone(), false)),
            };
        }
        let free = match self.claims.as_slice() {
            [] => wanted.unwrap_or(Site::A),
            [only] => only.index.other(),
            [first, second, ..] => {
                return Err(ClaimError::ThirdSite {
                    name: name.to_owned(),
                    first: first.name.clone(),
                    second: second.name.clone(),
                });
            }
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != free) {
            let taken = self
                .at(wanted)
                .map_or_else(String::new, |claim| claim.name.clone());
            return Err(other_index(wanted, taken));
        }
        let claim = Claim {
            index: free,
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
        let (first, _) = sites.claim("research", "r", None, None).unwrap();
        let (second, _) = sites.claim("medical", "m", None, None).unwrap();
        assert_eq!((first.index, second.index), (Site::A, Site::B));
        assert_eq!(
            sites.claim("medical", "m", None, None).unwrap(),
            (second, false)
        );
        assert_eq!(sites.at(Site::A).unwrap().name, "research");
    }

    #[test]
    fn a_second_claimant_and_a_third_site_are_refused() {
        let mut sites = Sites::default();
        sites.claim("medical", "m", None, None).unwrap();
        assert!(matches!(
            sites.claim("medical", "x", None, None),
            Err(ClaimError::ClaimedByAnother { .. })
        ));
        sites.claim("research", "r", None, None).unwrap();
        assert!(matches!(
            sites.claim("third", "t", None, None),
            Err(ClaimError::ThirdSite { .. })
        ));
        assert!(matches!(
            sites.claim("../etc", "t", None, None),
            Err(ClaimError::BadName(_))
        ));
    }

    #[test]
    fn a_cluster_that_was_made_anew_takes_the_claim_of_the_one_that_is_named_as_gone() {
        let mut sites = Sites::default();
        sites.claim("medical", "m", None, None).unwrap();
        sites.claim("research", "r", None, None).unwrap();
        let other = sites.claim("research", "new", None, Some("m"));
        assert!(matches!(other, Err(ClaimError::ClaimedByAnother { .. })));
        let (claim, changed) = sites.claim("research", "new", None, Some("r")).unwrap();
        assert_eq!((claim.index, changed), (Site::B, true));
        let again = sites.claim("research", "new", None, Some("r")).unwrap();
        assert_eq!(again, (claim, false));
        assert!(sites.claim("research", "r", None, None).is_err());
    }

    #[test]
    fn a_site_that_says_its_index_gets_that_one_or_none() {
        let mut sites = Sites::default();
        let (first, _) = sites.claim("research", "r", Some(Site::B), None).unwrap();
        assert_eq!(first.index, Site::B);
        assert!(matches!(
            sites.claim("research", "r", Some(Site::A), None),
            Err(ClaimError::OtherIndex { .. })
        ));
        assert!(matches!(
            sites.claim("medical", "m", Some(Site::B), None),
            Err(ClaimError::OtherIndex { .. })
        ));
        assert_eq!(
            sites
                .claim("medical", "m", Some(Site::A), None)
                .unwrap()
                .0
                .index,
            Site::A
        );
    }
}
