//! The kinds that a node reads from its cluster.

use kube::{api::ApiResource, core::GroupVersionKind};

/// One of them. The order is that in which files are written: what is named goes before who names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Secret,
    SitePair,
    StoragePool,
    Leg,
    Attachment,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Secret,
        Self::SitePair,
        Self::StoragePool,
        Self::Leg,
        Self::Attachment,
    ];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::SitePair => "SitePair",
            Self::StoragePool => "StoragePool",
            Self::Leg => "Leg",
            Self::Attachment => "Attachment",
        }
    }

    pub(crate) const fn api_version(self) -> &'static str {
        match self {
            Self::Secret => "v1",
            _ => twinsite_api::API_VERSION,
        }
    }

    /// Untyped, so that an object of a newer definition is passed on and told as a problem, not lost on the way.
    pub(crate) fn resource(self) -> ApiResource {
        let (group, version) = match self {
            Self::Secret => ("", "v1"),
            _ => (twinsite_api::GROUP, twinsite_api::VERSION),
        };
        let plural = match self {
            Self::Secret => "secrets",
            Self::SitePair => "sitepairs",
            Self::StoragePool => "storagepools",
            Self::Leg => "legs",
            Self::Attachment => "attachments",
        };
        let kind = GroupVersionKind::gvk(group, version, self.word());
        ApiResource::from_gvk_with_plural(&kind, plural)
    }

    /// Name of the file that holds an object of this kind.
    pub(crate) fn file(self, name: &str) -> String {
        format!("{}{name}.yaml", self.prefix())
    }

    /// The object whose file this is.
    pub(crate) fn of_file(file: &str) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|kind| {
            let name = file.strip_prefix(&kind.prefix())?;
            Some((kind, name.strip_suffix(".yaml")?))
        })
    }

    fn prefix(self) -> String {
        format!("{}-", self.word().to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_whose_it_is() {
        let file = Kind::Leg.file("ts-00-a");
        assert_eq!(file, "leg-ts-00-a.yaml");
        assert_eq!(Kind::of_file(&file), Some((Kind::Leg, "ts-00-a")));
        assert_eq!(Kind::of_file("notes.yaml"), None);
        assert_eq!(Kind::of_file("leg-a.yml"), None);
    }
}
