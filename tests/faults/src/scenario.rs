//! Scripted faults for the simulator: what a catalogue row injects, at which seconds of a run.
//!
//! A sweep repeats a script with a crash at every step of it; each run ends healed and whole (see `twinsite_sim::run`).

use std::time::Duration;

use twinsite_sim::faults::{Fault, How};
use twinsite_sim::world::{Mix, Plan};

/// After the last fault of a script.
const SETTLES: Duration = Duration::from_secs(25);

type Script = Vec<(Duration, Fault)>;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn crash(at: u64, device_stays: bool) -> (Duration, Fault) {
    (
        ms(at),
        Fault::Crash {
            agent: 0,
            device_stays,
            lasts: ms(1500),
        },
    )
}

fn cut_sites(at: u64, lasts: u64) -> (Duration, Fault) {
    (ms(at), Fault::CutSites { lasts: ms(lasts) })
}

fn cut_witness(at: u64, lasts: u64) -> (Duration, Fault) {
    (
        ms(at),
        Fault::CutWitness {
            agent: 0,
            lasts: ms(lasts),
        },
    )
}

fn power(at: u64, leg: usize, lasts: u64) -> (Duration, Fault) {
    (
        ms(at),
        Fault::PowerCut {
            leg,
            lasts: ms(lasts),
        },
    )
}

fn site(at: u64, leg: usize, lasts: u64) -> (Duration, Fault) {
    (
        ms(at),
        Fault::SitePower {
            leg,
            lasts: ms(lasts),
        },
    )
}

fn move_to(at: u64, to: usize, polite: bool) -> (Duration, Fault) {
    (ms(at), Fault::Move { to, polite })
}

/// Is the leg's cache volatile in this scenario?
fn volatile(name: &str) -> bool {
    matches!(
        name,
        "restart" | "both-restart" | "last-restart" | "rejoin-restart" | "restart-then-site"
    )
}

fn stop(at: u64, agent: usize, lasts: u64) -> (Duration, Fault) {
    (
        ms(at),
        Fault::Stop {
            agent,
            lasts: ms(lasts),
        },
    )
}

fn verify(from: u64) -> Fault {
    Fault::Verify {
        from,
        lasts: ms(8000),
    }
}

/// On the leg that is not read, so that only the comparison can tell.
fn lies(how: How) -> Vec<Script> {
    (0..3)
        .map(|k| vec![(ms(6000 + 411 * k), Fault::Lie { leg: 1, how })])
        .collect()
}

/// Scenarios with what people do, stopped processes, copies put back, discards.
fn of_people(name: &str) -> Vec<Script> {
    let expand = |at| (ms(at), Fault::Expand);
    match name {
        "stop-through-takeover" => (0..16)
            .map(|k| {
                vec![
                    stop(5000 + 37 * k, 0, 4000 + 900 * k),
                    move_to(6000, 1, false),
                ]
            })
            .collect(),
        "stop-and-go-on" => (0..12)
            .map(|k| vec![stop(5000 + 61 * k, 0, 400 + 500 * k)])
            .collect(),
        "stop-for-an-hour" => vec![vec![stop(5000, 0, 3_600_000), move_to(6000, 1, false)]],
        "crawl" => [0, 1]
            .map(|leg| {
                vec![(
                    ms(5000),
                    Fault::Crawl {
                        leg,
                        lasts: ms(70_000),
                    },
                )]
            })
            .to_vec(),
        "one-session-held" => (0..12)
            .map(|k| {
                let hold = Fault::HoldOne {
                    agent: 0,
                    leg: (k % 2) as usize,
                    session: (k / 2 % 2) as usize,
                    lasts: ms(800 + 700 * k),
                };
                vec![(ms(5000), hold), cut_sites(9000, 4000)]
            })
            .collect(),
        "put-back" => (0..40)
            .map(|k| {
                let copy = Fault::Rollback {
                    leg: (k % 2) as usize,
                    lasts: ms(3000 + 200 * k),
                };
                let mut script = vec![(ms(5000), copy), cut_sites(6000, 1500 * (k % 4))];
                if k % 3 == 0 {
                    script.push(site(7000 + 300 * k, (k % 2) as usize, 9000));
                }
                script
            })
            .collect(),
        "witness-put-back" => (0..16)
            .map(|k| {
                vec![
                    cut_sites(4000, 5000),
                    move_to(14_000, 1, k % 2 == 0),
                    (
                        ms(24_000),
                        Fault::Restore {
                            lasts: ms(2000 + 1500 * k),
                        },
                    ),
                    crash(25_000, false),
                    move_to(26_000, 0, false),
                    cut_sites(27_000 + 200 * k, 8000),
                ]
            })
            .collect(),
        "witness-lost" => (0..10)
            .map(|k| {
                vec![
                    cut_sites(4000, 3000 * (k % 3)),
                    (
                        ms(6000 + 700 * k),
                        Fault::Lose {
                            lasts: ms(3000 + 1000 * k),
                        },
                    ),
                ]
            })
            .collect(),
        "force" => (0..12)
            .map(|k| {
                vec![
                    cut_sites(5000, 4000 + 1500 * k),
                    (ms(12_000 + 200 * k), Fault::Force),
                    move_to(45_000, 0, k % 2 == 0),
                ]
            })
            .collect(),
        "drop" => (0..8)
            .map(|k| {
                vec![
                    (
                        ms(5000),
                        Fault::Drop {
                            leg: (k % 2) as usize,
                            lasts: ms(9000),
                        },
                    ),
                    crash(6000 + 500 * k, k % 2 == 0),
                ]
            })
            .collect(),
        "expand" => (0..60)
            .map(|k| {
                let mut script = vec![expand(7000), expand(22_000)];
                match k % 4 {
                    0 => script.push(crash(7000 + k / 2, false)),
                    1 => script.push(power(7000 + k / 2, 1, 2000)),
                    2 => script.push(cut_sites(7000 + k / 2, 6000)),
                    _ => script.push(site(7001 + k / 2, 0, 5000)),
                }
                script
            })
            .collect(),
        "lost-write" => lies(How::Lost),
        "misdirected-write" => lies(How::Misdirected),
        "bit-rot" => lies(How::Rot),
        "verify-beside-writes" => (0..6)
            .map(|k| {
                vec![
                    (ms(6000), verify(0)),
                    cut_sites(7000 + 300 * k, 3000),
                    (ms(16_000), verify(1 << 30)),
                ]
            })
            .collect(),
        "discard" => (0..20)
            .map(|k| vec![cut_sites(5000, 5000), crash(10_000 + 45 * k, k % 2 == 0)])
            .collect(),
        _ => vec![],
    }
}

/// The runs of a scenario; empty = no such scenario.
pub fn plans(name: &str) -> Vec<Plan> {
    let people = of_people(name);
    let mix = if people.is_empty() {
        Mix::First
    } else {
        Mix::All
    };
    let scripts: Vec<Script> = match name {
        _ if !people.is_empty() => people,
        "crash" => (0..12)
            .map(|k| vec![crash(5000 + 13 * k, k % 2 == 0)])
            .collect(),
        "crash-held" => {
            let hold = |leg| {
                (
                    ms(5000),
                    Fault::Hold {
                        agent: 0,
                        leg,
                        lasts: ms(2500),
                    },
                )
            };
            (0..8)
                .map(|k| vec![hold((k % 2) as usize), crash(5100 + 40 * k, false)])
                .collect()
        }
        "crash-in-solo-transition" => (0..40)
            .map(|k| vec![cut_sites(5000, 12_000), crash(7900 + 25 * k, k % 2 == 0)])
            .collect(),
        "crash-in-rejoin" => (0..60)
            .map(|k| vec![cut_sites(5000, 6000), crash(11_000 + 30 * k, k % 2 == 0)])
            .collect(),
        "crash-in-takeover" => {
            let die = |at| {
                (
                    ms(at),
                    Fault::Crash {
                        agent: 1,
                        device_stays: false,
                        lasts: ms(1000),
                    },
                )
            };
            (0..30)
                .map(|k| {
                    vec![
                        cut_sites(5000, 9000),
                        move_to(6000, 1, false),
                        die(7400 + 30 * k),
                    ]
                })
                .collect()
        }
        "two-kills" => (0..10)
            .map(|k| vec![crash(5000 + 7 * k, false), crash(7600 + 31 * k, false)])
            .collect(),
        "move-on-site" => (0..4)
            .map(|k| vec![move_to(5000 + 9 * k, 2, false), move_to(9000, 0, false)])
            .collect(),
        "takeover" => (0..6)
            .map(|k| vec![cut_sites(5000, 20_000), move_to(6000 + 111 * k, 1, false)])
            .collect(),
        "planned" => (0..4)
            .map(|k| vec![move_to(5000 + 17 * k, 1, true), move_to(15_000, 0, true)])
            .collect(),
        "many-moves" => vec![
            (0..30)
                .map(|k| move_to(4000 + 6000 * k, [1, 0, 2][k as usize % 3], k % 2 == 0))
                .collect(),
        ],
        "rapid" => vec![
            (0..30)
                .map(|k| move_to(4000 + 100 * k, [1, 0, 2][k as usize % 3], k % 3 == 0))
                .collect(),
        ],
        "flap" => vec![(0..15).map(|k| cut_sites(4000 + 4000 * k, 2000)).collect()],
        "half-open" => [(true, false), (false, true)]
            .map(|(to_target, to_initiator)| {
                vec![(
                    ms(5000),
                    Fault::Cut {
                        agent: 0,
                        leg: 1,
                        to_target,
                        to_initiator,
                        lasts: ms(9000),
                    },
                )]
            })
            .to_vec(),
        "reset" => (0..10)
            .map(|k| {
                vec![(
                    ms(5000 + 3 * k),
                    Fault::Reset {
                        agent: 0,
                        leg: (k % 2) as usize,
                    },
                )]
            })
            .collect(),
        "hold" => (0..6)
            .map(|k| {
                vec![(
                    ms(5000),
                    Fault::Hold {
                        agent: 0,
                        leg: 1,
                        lasts: ms(500 + 800 * k),
                    },
                )]
            })
            .collect(),
        "hang" => vec![
            vec![(
                ms(5000),
                Fault::Hang {
                    leg: 1,
                    lasts: ms(8000),
                },
            )],
            vec![(
                ms(5000),
                Fault::Hang {
                    leg: 0,
                    lasts: ms(8000),
                },
            )],
        ],
        "slow" => vec![vec![(
            ms(5000),
            Fault::Slow {
                leg: 1,
                lasts: ms(30_000),
            },
        )]],
        "write-error" => [0, 1]
            .map(|leg| {
                vec![(
                    ms(5000),
                    Fault::Broken {
                        leg,
                        lasts: ms(3000),
                    },
                )]
            })
            .to_vec(),
        "bad-block" => (0..8)
            .map(|k| {
                vec![(
                    ms(3000),
                    Fault::BadBlock {
                        leg: (k % 2) as usize,
                        block: 6 * k,
                    },
                )]
            })
            .collect(),
        "full" => [0, 1]
            .map(|leg| {
                vec![(
                    ms(5000),
                    Fault::Full {
                        leg,
                        lasts: ms(4000),
                    },
                )]
            })
            .to_vec(),
        "full-both" => vec![
            [0, 1]
                .map(|leg| {
                    (
                        ms(5000),
                        Fault::Full {
                            leg,
                            lasts: ms(4000),
                        },
                    )
                })
                .to_vec(),
        ],
        "flush" => [0, 1]
            .map(|leg| {
                vec![(
                    ms(5000),
                    Fault::FlushFails {
                        leg,
                        lasts: ms(4000),
                    },
                )]
            })
            .to_vec(),
        "flush-in-rejoin" => (0..10)
            .map(|k| {
                vec![
                    cut_sites(5000, 5000),
                    (
                        ms(9900 + 90 * k),
                        Fault::FlushFails {
                            leg: 1,
                            lasts: ms(1500),
                        },
                    ),
                ]
            })
            .collect(),
        "restart" => (0..8)
            .map(|k| vec![power(5000 + 37 * k, (k % 2) as usize, 700)])
            .collect(),
        "both-restart" => (0..8)
            .map(|k| vec![power(5000, 0, 900), power(5000 + 61 * k, 1, 700)])
            .collect(),
        "last-restart" => (0..6)
            .map(|k| vec![cut_sites(5000, 30_000), power(12_000 + 77 * k, 0, 900)])
            .collect(),
        "rejoin-restart" => (0..40)
            .map(|k| {
                vec![
                    cut_sites(5000, 5000),
                    power(10_000 + 35 * k, (k % 2) as usize, 800),
                ]
            })
            .collect(),
        "restart-then-site" => (0..6)
            .map(|k| vec![power(5000, 0, 300), site(5600 + 200 * k, 1, 9000)])
            .collect(),
        "torn" => (0..10)
            .map(|k| vec![site(5000 + 3 * k, (k % 2) as usize, 3000)])
            .collect(),
        "cut-race" => (0..20)
            .map(|k| vec![cut_sites(5000, 15_000), move_to(5000 + 150 * k, 1, false)])
            .collect(),
        "no-witness" => vec![vec![
            (ms(4000), Fault::WitnessDown { lasts: ms(20_000) }),
            cut_sites(6000, 6000),
        ]],
        "witness-then-leg" => vec![vec![
            (ms(4000), Fault::WitnessDown { lasts: ms(30_000) }),
            power(6000, 1, 60_000),
        ]],
        "witness-flaps" => {
            let down = |k: u64| (ms(4000 + 3000 * k), Fault::WitnessDown { lasts: ms(1500) });
            vec![
                (0..10)
                    .map(down)
                    .chain([cut_sites(9000, 4000), cut_sites(20_000, 4000)])
                    .collect(),
            ]
        }
        "witness-cut-crash" => (0..8)
            .map(|k| vec![cut_witness(4000, 25_000), crash(6000 + 31 * k, k % 2 == 0)])
            .collect(),
        "both-off" => vec![
            vec![site(5000, 0, 6000), site(5010, 1, 9000)],
            vec![site(5000, 1, 6000), site(9000, 0, 9000)],
            vec![site(5000, 1, 16_000), site(12_000, 0, 2000)],
            vec![
                (ms(4000), Fault::WitnessDown { lasts: ms(15_000) }),
                site(5000, 0, 3000),
                site(5010, 1, 5000),
            ],
            vec![
                (ms(4000), Fault::WitnessDown { lasts: ms(15_000) }),
                site(5000, 1, 3000),
                site(5010, 0, 5000),
            ],
        ],
        "source-dies-in-resync" => (0..20)
            .map(|k| vec![cut_sites(5000, 5000), site(10_000 + 60 * k, 0, 6000)])
            .collect(),
        "only-the-other-returns" => vec![vec![
            cut_sites(5000, 40_000),
            site(10_000, 0, 25_000),
            move_to(12_000, 1, false),
        ]],
        "edits" => vec![
            (0..20)
                .map(|k| (ms(8000 + 20 * k), Fault::Note))
                .chain([cut_sites(5000, 6000), cut_sites(14_000, 4000)])
                .collect(),
        ],
        "continued" => (0..6)
            .map(|k| {
                vec![
                    crash(5000 + 13 * k, true),
                    move_to(5200, 1, false),
                    move_to(14_000, 0, false),
                ]
            })
            .collect(),
        _ => vec![],
    };
    let volatile = volatile(name);
    scripts
        .into_iter()
        .enumerate()
        .map(|(k, script)| {
            let last = script.iter().map(|(at, _)| *at).max().unwrap_or_default();
            let asleep = script.iter().filter_map(|(at, fault)| match fault {
                Fault::Stop { lasts, .. } => Some(*at + *lasts),
                _ => None,
            });
            let faults_for = asleep.chain([last]).max().unwrap_or_default() + SETTLES;
            Plan {
                script,
                ..Plan::of(1000 + k as u64, faults_for, volatile, mix)
            }
        })
        .collect()
}
