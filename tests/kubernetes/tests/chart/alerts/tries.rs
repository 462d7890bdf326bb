//! What each alert is tried on, and what it must say when.

use super::Of;

/// One series of a page, by its name and as many labels as it takes, and its values in promtool's notation, each half
/// minute, or each 10 minutes of what takes days.
pub(super) struct Input {
    pub(super) of: Of,
    pub(super) series: &'static str,
    /// Labels that are otherwise than on the page.
    pub(super) but: &'static [(&'static str, &'static str)],
    pub(super) values: &'static str,
}

const fn of(of: Of, series: &'static str, values: &'static str) -> Input {
    Input {
        of,
        series,
        but: &[],
        values,
    }
}

const fn agent(series: &'static str, values: &'static str) -> Input {
    of(Of::Agent, series, values)
}

const fn operator(series: &'static str, values: &'static str) -> Input {
    of(Of::Operator, series, values)
}

/// What must happen.
pub(super) struct Try {
    pub(super) alert: &'static str,
    pub(super) input: &'static [Input],
    /// The last time at which nothing is said, and one at which it is.
    pub(super) quiet: &'static str,
    pub(super) fires: &'static str,
    /// The alert's labels but its severity; None: those of the first input.
    pub(super) labels: Option<&'static [(&'static str, &'static str)]>,
    pub(super) summary: &'static str,
    /// Its description, where it is made of what was seen.
    pub(super) description: Option<&'static str>,
}

const WELL: Try = Try {
    alert: "",
    input: &[],
    quiet: "0m",
    fires: "",
    labels: None,
    summary: "",
    description: None,
};

const VOLUME: &[(&str, &str)] = &[("namespace", "rv"), ("name", "records")];
const PAIR: &[(&str, &str)] = &[("pair", "ctrc")];

/// In most of them it begins at 5 minutes.
pub(super) const TRIES: &[Try] = &[
    Try {
        alert: "TwinsiteNotMirrored",
        input: &[
            agent(
                r#"twinsite_mirror_leg_state{volume="rv/records",leg="A",state="Member"}"#,
                "1x60",
            ),
            agent(
                r#"twinsite_mirror_leg_state{volume="rv/records",leg="B",state="Member"}"#,
                "1x9 0x50",
            ),
            agent(r#"twinsite_mirror_attached{volume="rv/records"}"#, "1x60"),
        ],
        quiet: "9m30s",
        fires: "10m",
        labels: Some(&[
            ("volume", "rv/records"),
            ("attachment", "records-writer"),
            ("instance", "192.0.2.11:9810"),
        ]),
        summary: "Volume rv/records has been on one site only for 5 minutes.",
        ..WELL
    },
    // A writer that lost its device says nothing of the copies.
    Try {
        alert: "TwinsiteNotMirrored",
        input: &[
            agent(
                r#"twinsite_mirror_leg_state{volume="rv/records",leg="A",state="Member"}"#,
                "0x60",
            ),
            agent(
                r#"twinsite_mirror_leg_state{volume="rv/records",leg="B",state="Member"}"#,
                "0x60",
            ),
            agent(r#"twinsite_mirror_attached{volume="rv/records"}"#, "0x60"),
        ],
        quiet: "29m",
        ..WELL
    },
    Try {
        alert: "TwinsiteIoSuspended",
        input: &[agent(
            r#"twinsite_mirror_io_suspended{volume="rv/records"}"#,
            "0x9 1x20",
        )],
        quiet: "5m30s",
        fires: "6m",
        summary: "Reads and writes of volume rv/records wait.",
        ..WELL
    },
    // What is left has been the same since 2 minutes.
    Try {
        alert: "TwinsiteResyncStalled",
        input: &[agent(
            "twinsite_mirror_resync_left_bytes",
            "3221225472-268435456x4 2147483648x40",
        )],
        quiet: "11m30s",
        fires: "12m",
        summary: "The resync of volume rv/images does not get on.",
        description: Some("2GiB are left and it has not become less for 5 minutes."),
        ..WELL
    },
    Try {
        alert: "TwinsiteResyncStalled",
        input: &[agent("twinsite_mirror_resync_left_bytes", "30720-256x60")],
        quiet: "30m",
        ..WELL
    },
    Try {
        alert: "TwinsiteSplitBrain",
        input: &[agent(
            r#"twinsite_mirror_split_brain{volume="rv/records"}"#,
            "0x9 1x20",
        )],
        quiet: "4m30s",
        fires: "5m",
        summary: "Volume rv/records has a lost branch that waits for a person.",
        ..WELL
    },
    Try {
        alert: "TwinsiteLatched",
        input: &[agent(
            r#"twinsite_mirror_latched{volume="rv/records"}"#,
            "0x9 1x100",
        )],
        quiet: "34m30s",
        fires: "35m",
        summary: "Volume rv/records is not where its manifest says.",
        ..WELL
    },
    Try {
        alert: "TwinsiteSuperseded",
        input: &[agent(
            r#"twinsite_mirror_superseded{volume="rv/records"}"#,
            "0x9 1x40",
        )],
        quiet: "14m30s",
        fires: "15m",
        summary: "A writer of volume rv/records was superseded and is still there.",
        description: Some(
            "Its device gives errors. The pod that uses it on 192.0.2.11:9810 has to go.",
        ),
        ..WELL
    },
    Try {
        alert: "TwinsiteFlushFailed",
        input: &[agent(
            r#"twinsite_mirror_flush_failures_total{volume="rv/records"}"#,
            "0x9 1x60",
        )],
        quiet: "4m30s",
        fires: "5m",
        summary: "A flush of volume rv/records failed.",
        ..WELL
    },
    // It fails before anybody has read the counter.
    Try {
        alert: "TwinsiteFlushFailed",
        input: &[agent(
            r#"twinsite_mirror_flush_failures_total{volume="rv/records"}"#,
            "_x10 1x60",
        )],
        quiet: "4m30s",
        fires: "15m",
        summary: "A flush of volume rv/records failed.",
        ..WELL
    },
    // What failed long ago is over.
    Try {
        alert: "TwinsiteFlushFailed",
        input: &[agent(
            r#"twinsite_mirror_flush_failures_total{volume="rv/records"}"#,
            "_x10 1x60",
        )],
        quiet: "21m",
        ..WELL
    },
    Try {
        alert: "TwinsiteReadRepaired",
        input: &[agent(
            r#"twinsite_mirror_read_repairs_total{volume="rv/records"}"#,
            "0x9 3x60",
        )],
        quiet: "4m30s",
        fires: "5m",
        summary: "Reads of volume rv/records failed on one leg and were answered from the other.",
        ..WELL
    },
    Try {
        alert: "TwinsiteReadRepaired",
        input: &[agent(
            r#"twinsite_mirror_read_repairs_total{volume="rv/records"}"#,
            "_x10 3x60",
        )],
        quiet: "4m30s",
        fires: "20m",
        summary: "Reads of volume rv/records failed on one leg and were answered from the other.",
        ..WELL
    },
    Try {
        alert: "TwinsiteLegsDiffer",
        input: &[agent(
            "twinsite_mirror_verify_differing_bytes",
            "0x9 4096x20",
        )],
        quiet: "4m30s",
        fires: "5m",
        summary: "The copies of volume rv/records are not the same.",
        description: Some(
            "A comparison found 4096 bytes of blocks that differ. Nothing was changed; the volume goes on with the copy of the active site.",
        ),
        ..WELL
    },
    Try {
        alert: "TwinsiteVolumeStalled",
        input: &[Input {
            but: &[("status", "True")],
            ..operator(
                r#"twinsite_volume_condition{condition="Stalled"}"#,
                "_x10 1x30",
            )
        }],
        quiet: "6m30s",
        fires: "7m",
        labels: Some(VOLUME),
        summary: "Volume rv/records waits for a person.",
        ..WELL
    },
    Try {
        alert: "TwinsiteFailoverNotReady",
        input: &[Input {
            but: &[("status", "False")],
            ..operator(
                r#"twinsite_volume_condition{condition="FailoverReady"}"#,
                "_x10 1x60",
            )
        }],
        quiet: "19m30s",
        fires: "20m",
        labels: Some(VOLUME),
        summary: "The other site could not take over volume rv/records.",
        ..WELL
    },
    Try {
        alert: "TwinsiteFailoverAdvised",
        input: &[Input {
            but: &[("status", "True")],
            ..operator(
                r#"twinsite_volume_condition{condition="AutomaticFailover"}"#,
                "_x10 1x30",
            )
        }],
        quiet: "5m",
        fires: "5m30s",
        labels: Some(VOLUME),
        summary: "The site where volume rv/records is active shows no sign of life, and nothing moves it.",
        ..WELL
    },
    Try {
        alert: "TwinsitePoolNotServing",
        input: &[agent("twinsite_pool_open", "1x9 0x30")],
        quiet: "6m30s",
        fires: "7m",
        summary: "Pool ssd-m1 on 192.0.2.11:9810 serves nothing.",
        ..WELL
    },
    Try {
        alert: "TwinsitePoolNearFull",
        input: &[
            agent("twinsite_pool_free_bytes", "60x9 10x60"),
            agent("twinsite_pool_capacity_bytes", "100x70"),
        ],
        quiet: "19m30s",
        fires: "20m",
        summary: "Pool ssd-m1 has 10% left.",
        ..WELL
    },
    Try {
        alert: "TwinsiteLegStoreErrors",
        input: &[agent("twinsite_leg_store_errors_total", "0x9 2x60")],
        quiet: "4m30s",
        fires: "12m",
        summary: "The disk under leg records-a gives errors.",
        description: Some("2 reads or writes of its store failed in 10 minutes."),
        ..WELL
    },
    Try {
        alert: "TwinsiteLegStoreErrors",
        input: &[agent("twinsite_leg_store_errors_total", "_x10 2x60")],
        quiet: "4m30s",
        fires: "12m",
        summary: "The disk under leg records-a gives errors.",
        description: Some("2 reads or writes of its store failed in 10 minutes."),
        ..WELL
    },
    Try {
        alert: "TwinsiteObjectProblems",
        input: &[agent("twinsite_object_problems", "0x9 2x40")],
        quiet: "14m30s",
        fires: "15m",
        summary: "The agent on 192.0.2.11:9810 cannot use 2 of its objects.",
        ..WELL
    },
    Try {
        alert: "TwinsiteWitnessUnreachable",
        input: &[agent("twinsite_witness_reachable", "1x9 0x30")],
        quiet: "6m30s",
        fires: "7m",
        labels: Some(&[("pair", "ctrc"), ("job", "twinsite-agent-metrics")]),
        summary: "The witness of pair ctrc does not answer.",
        ..WELL
    },
    Try {
        alert: "TwinsitePeerUnreachable",
        input: &[operator("twinsite_peer_reachable", "1x9 0x40")],
        quiet: "9m30s",
        fires: "10m",
        labels: Some(PAIR),
        summary: "The API of the other site of pair ctrc does not answer.",
        ..WELL
    },
    Try {
        alert: "TwinsiteSiteNotClaimed",
        input: &[operator("twinsite_site_claimed", "1x9 0x30")],
        quiet: "6m30s",
        fires: "7m",
        labels: Some(PAIR),
        summary: "This cluster does not own the name of its site in pair ctrc.",
        ..WELL
    },
    Try {
        alert: "TwinsiteAgentDown",
        input: &[agent("up", "1x9 0x20")],
        quiet: "5m30s",
        fires: "6m",
        summary: "The agent on 192.0.2.11:9810 does not answer.",
        ..WELL
    },
    Try {
        alert: "TwinsiteOperatorDown",
        input: &[operator("up", "1x9 0x30")],
        quiet: "6m30s",
        fires: "7m",
        labels: Some(&[]),
        summary: "No operator of twinsite answers in this cluster.",
        ..WELL
    },
    // There is no pod of it at all; Prometheus forgets the last one after 5 minutes.
    Try {
        alert: "TwinsiteOperatorDown",
        input: &[operator("up", "1x9 _x40")],
        quiet: "11m",
        fires: "12m",
        labels: Some(&[("job", "twinsite-operator-metrics")]),
        summary: "No operator of twinsite answers in this cluster.",
        ..WELL
    },
    // One replica of two is enough.
    Try {
        alert: "TwinsiteOperatorDown",
        input: &[
            operator("up", "1x60"),
            Input {
                but: &[("instance", "10.81.0.9:9808")],
                ..operator("up", "0x60")
            },
        ],
        quiet: "30m",
        ..WELL
    },
    Try {
        alert: "TwinsiteCsiDown",
        input: &[of(Of::CsiNode, "up", "1x9 0x30")],
        quiet: "9m30s",
        fires: "10m",
        summary: "The CSI driver on 192.0.2.11:9811 does not answer.",
        ..WELL
    },
    Try {
        alert: "TwinsiteCsiDown",
        input: &[of(Of::CsiController, "up", "1x9 0x30")],
        quiet: "9m30s",
        fires: "10m",
        summary: "The CSI driver on 192.0.2.11:9809 does not answer.",
        ..WELL
    },
    Try {
        alert: "TwinsiteVersionSkew",
        input: &[
            agent("twinsite_agent_info", "1x1100"),
            Input {
                but: &[
                    ("version", "0.0.9"),
                    ("instance", "192.0.2.12:9810"),
                    ("node", "m2"),
                ],
                ..agent("twinsite_agent_info", "1x1100")
            },
        ],
        quiet: "167h50m",
        fires: "168h",
        labels: Some(&[]),
        summary: "Agents of different versions have run side by side for a week.",
        ..WELL
    },
];
