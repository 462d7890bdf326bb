//! The network between sites: a bridge per site, a router between them, and cuts in it.
//!
//! The process that makes it lies in a network namespace of its own and is the router ([`crate::world`]); machines lie in theirs and
//! hang on a cable each. Site number n (1, 2, ..) owns `10.(80+n).0.0/16`: machines in `.0.x`, services in `.96.x`, the pods of
//! machine k in `.(100+k).x`. So one rule says everything between two sites.
//!
//! A cut is silent, as a cut fibre is: packets vanish, nobody is told.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Rules of a cut stand before the routing tables.
const CUT_PRIORITY: &str = "100";

/// A site's number and the addresses that follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet(pub u8);

impl Subnet {
    fn second(self) -> u8 {
        80 + self.0
    }

    /// Everything of the site.
    #[must_use]
    pub fn prefix(self) -> String {
        format!("10.{}.0.0/16", self.second())
    }

    /// The router's foot in the site; for the harness itself too.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second(), 0, 1)
    }

    /// A machine's address; number 10 is the control plane's.
    #[must_use]
    pub fn machine(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second(), 0, number)
    }

    /// First three numbers of services' addresses.
    #[must_use]
    pub fn services(self) -> [u8; 3] {
        [10, self.second(), 96]
    }

    /// The pods of a machine.
    #[must_use]
    pub fn pods(self, number: u8) -> String {
        format!("10.{}.{}.0/24", self.second(), 100 + number)
    }

    fn bridge(self) -> String {
        format!("site{}", self.0)
    }

    fn cable(self, number: u8) -> String {
        format!("s{}m{number}", self.0)
    }
}

/// Makes this process's network namespace a router.
///
/// # Errors
/// It is the machine's own namespace, or something cannot be set.
pub fn become_router() -> Result<()> {
    let devices = fs::read_to_string("/proc/self/net/dev")?;
    ensure!(
        devices
            .lines()
            .skip(2)
            .all(|line| line.trim_start().starts_with("lo:")),
        "the router wants a network namespace of its own"
    );
    ip(&["link", "set", "lo", "up"])?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot forward packets")
}

/// Gives the router an address that belongs to no site.
///
/// # Errors
/// It cannot be set.
pub fn add_address(address: Ipv4Addr) -> Result<()> {
    ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"])
}

/// Adds a site.
///
/// # Errors
/// The bridge cannot be made.
pub fn add_site(site: Subnet) -> Result<()> {
    let bridge = site.bridge();
    ip(&["link", "add", "name", &bridge, "type", "bridge"])?;
    ip(&[
        "addr",
        "add",
        &format!("{}/24", site.gateway()),
        "dev",
        &bridge,
    ])?;
    ip(&["link", "set", &bridge, "up"])
}

/// Lays a cable from a site to the namespace of process `inside`: `eth0` there, with the machine's address and the router as the
/// way to everywhere. The control plane (number 10) owns the services' addresses, other machines those of their pods.
///
/// # Errors
/// The cable cannot be laid.
pub fn plug(site: Subnet, number: u8, inside: u32) -> Result<()> {
    let (cable, address) = (site.cable(number), site.machine(number));
    let inside = inside.to_string();
    ip(&[
        "link", "add", "name", &cable, "type", "veth", "peer", "name", "eth0", "netns", &inside,
    ])?;
    ip(&["link", "set", &cable, "master", &site.bridge(), "up"])?;
    let within = |arguments: &[&str]| {
        run(Command::new("nsenter")
            .args(["--net", "-t", &inside, "ip"])
            .args(arguments))
    };
    within(&["link", "set", "lo", "up"])?;
    within(&["addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
    within(&["link", "set", "eth0", "up"])?;
    within(&[
        "route",
        "add",
        "default",
        "via",
        &site.gateway().to_string(),
    ])?;
    let behind = if number == CONTROL_PLANE {
        let [a, b, c] = site.services();
        within(&["addr", "add", &format!("{a}.{b}.{c}.1/32"), "dev", "lo"])?;
        format!("{a}.{b}.{c}.0/24")
    } else {
        site.pods(number)
    };
    ip(&["route", "replace", &behind, "via", &address.to_string()])
}

/// Number of a site's control plane.
pub const CONTROL_PLANE: u8 = 10;

/// Cuts the line between two sites, in both directions.
///
/// # Errors
/// The rule cannot be set.
pub fn cut(one: Subnet, other: Subnet) -> Result<()> {
    mend(one, other)?;
    rule("add", one, other)?;
    rule("add", other, one)
}

/// Makes the line between two sites whole again.
///
/// # Errors
/// The rules cannot be listed.
pub fn mend(one: Subnet, other: Subnet) -> Result<()> {
    // A rule that is not there is not an error.
    let _ = rule("del", one, other);
    let _ = rule("del", other, one);
    Ok(())
}

fn rule(what: &str, from: Subnet, to: Subnet) -> Result<()> {
    ip(&[
        "rule",
        what,
        "priority",
        CUT_PRIORITY,
        "from",
        &from.prefix(),
        "to",
        &to.prefix(),
        "blackhole",
    ])
}

/// `/proc/sys` of a namespace is written through a process in it.
pub(crate) fn forward_within(path: &Path) -> Result<()> {
    run(Command::new(path).args(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]))
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_a_site_lies_in_its_prefix() {
        let site = Subnet(2);
        assert_eq!(site.prefix(), "10.82.0.0/16");
        assert_eq!(site.machine(11).to_string(), "10.82.0.11");
        assert_eq!(site.pods(11), "10.82.111.0/24");
        assert_eq!(site.services(), [10, 82, 96]);
    }
}
