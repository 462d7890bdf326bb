//! What is measured: loads, who runs them on what, and the marks.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Client {
    Libiscsi,
    Ours,
    /// Ours with four sessions, each with a thread of its own, to four targets.
    Four,
    /// Plain TCP messages of the same sizes; no server.
    PingPong,
    /// The same stable writes to a file on the same disk, a thread each; no server.
    Disk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Server {
    Ours,
    Tgt,
    /// tgt with large segments and bursts.
    Tuned,
    /// Ours with two threads and four targets.
    OursTwo,
    /// No write is acknowledged before the disk has it.
    OursStable,
    TgtStable,
    /// The least that a target can be: no time for a command.
    Floor,
    /// That, and a plain stable write for each.
    FloorStable,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// On which processors both ends run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where the scheduler puts them: now on one, now on two.
    Free,
    /// All on one, so that no run is lucky. An exchange is then the work of both ends and two switches between them.
    One,
}

#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) random: bool,
    pub(crate) bytes: u32,
    pub(crate) depth: u32,
    /// Of the opponent's operations per second.
    pub(crate) mark: f64,
    pub(crate) opponent: Server,
    pub(crate) place: Place,
}

impl Load {
    /// The runs of one round.
    pub(crate) fn runs(&self) -> Vec<(Client, Server)> {
        let clients = [Client::Libiscsi, Client::Ours];
        if self.opponent == Server::TgtStable {
            let mut servers = vec![Server::OursStable, Server::TgtStable];
            servers.extend(self.floor());
            let mut runs = pairs(&clients, &servers);
            runs.push((Client::Disk, Server::None));
            return runs;
        }
        let servers = [Server::Ours, Server::Tgt, Server::Tuned, Server::Floor];
        let mut runs = pairs(&clients, &servers);
        runs.push((Client::PingPong, Server::None));
        if self.counts_sessions() {
            runs.push((Client::Ours, Server::OursTwo));
            runs.push((Client::Four, Server::OursTwo));
        }
        runs
    }

    /// What no target can exceed. It writes one after the other, so with many under way it is no floor for stable writes.
    pub(crate) fn floor(&self) -> Option<Server> {
        match (self.opponent, self.depth) {
            (Server::TgtStable, 1) => Some(Server::FloorStable),
            (Server::TgtStable, _) => None,
            _ => Some(Server::Floor),
        }
    }

    /// Are four sessions compared with one?
    pub(crate) fn counts_sessions(&self) -> bool {
        self.bytes == 4096 && self.place == Place::Free
    }

    pub(crate) fn verb(&self) -> &'static str {
        match (self.random, self.kind) {
            (true, Kind::Read) => "randread",
            (true, Kind::Write) => "randwrite",
            (false, Kind::Read) => "read",
            (false, Kind::Write) => "write",
        }
    }
}

fn pairs(clients: &[Client], servers: &[Server]) -> Vec<(Client, Server)> {
    let of = |client: &Client| {
        servers
            .iter()
            .map(|server| (*client, *server))
            .collect::<Vec<_>>()
    };
    clients.iter().flat_map(of).collect()
}

const fn load(
    name: &'static str,
    kind: Kind,
    bytes: u32,
    depth: u32,
    mark: f64,
    opponent: Server,
) -> Load {
    Load {
        name,
        kind,
        random: bytes == 4096,
        bytes,
        depth,
        mark,
        opponent,
        place: Place::Free,
    }
}

const fn on_one(load: Load) -> Load {
    Load {
        place: Place::One,
        ..load
    }
}

/// Units in memory, writes acknowledged from the page cache at both.
pub(crate) const FAST: &[Load] = &[
    load("4k read QD1", Kind::Read, 4096, 1, 1.5, Server::Tgt),
    load("4k write QD1", Kind::Write, 4096, 1, 1.5, Server::Tgt),
    on_one(load(
        "4k read QD1, one processor",
        Kind::Read,
        4096,
        1,
        1.5,
        Server::Tgt,
    )),
    on_one(load(
        "4k write QD1, one processor",
        Kind::Write,
        4096,
        1,
        1.5,
        Server::Tgt,
    )),
    load("4k read QD32", Kind::Read, 4096, 32, 2.0, Server::Tgt),
    load("4k write QD32", Kind::Write, 4096, 32, 2.0, Server::Tgt),
    load(
        "128k read QD32",
        Kind::Read,
        131_072,
        32,
        1.5,
        Server::Tuned,
    ),
    load(
        "128k write QD32",
        Kind::Write,
        131_072,
        32,
        1.5,
        Server::Tuned,
    ),
];

/// Units on a disk, no write acknowledged before it is there.
pub(crate) const STABLE: &[Load] = &[
    load(
        "4k stable write QD1",
        Kind::Write,
        4096,
        1,
        1.5,
        Server::TgtStable,
    ),
    load(
        "4k stable write QD32",
        Kind::Write,
        4096,
        32,
        1.5,
        Server::TgtStable,
    ),
    load(
        "128k stable write QD32",
        Kind::Write,
        131_072,
        32,
        1.5,
        Server::TgtStable,
    ),
];
