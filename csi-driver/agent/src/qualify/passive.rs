//! The probes that change nothing: who the LUN says it is, and reads.

use std::time::{Duration, Instant};

use twinsite_iscsi::scsi::client::{self, BlockLimits, Capabilities, Capacity, FullStatus};
use twinsite_iscsi::scsi::{Cdb, PrType, Residual, Status, TargetAge};
use twinsite_iscsi::session::DataDir;
use twinsite_mirror::layout::DATA_OFFSET;

use super::nexus::{Nexus, ProbeError, said};
use super::{Answer, Probe, Qualification};

const PAGE: u16 = 4096;
/// What the mirror reads at once while it copies.
const LARGE: u32 = 1 << 20;
/// A latency probe ends after this time, whatever it has.
const SAMPLE_TIME: Duration = Duration::from_secs(3);

impl Qualification {
    pub(super) fn passive(&mut self) -> Result<(), ProbeError> {
        self.who()?;
        self.cache()?;
        let age = self.a.data(client::target_age(), 252);
        let age = age.ok().as_deref().and_then(TargetAge::parse);
        self.say(
            Probe::OwnTarget,
            match age {
                Some(age) => Answer::Yes(format!("boot id {:016x}", age.boot_id)),
                None => Answer::No("not told".into()),
            },
        );
        self.capabilities()?;
        let status = self
            .a
            .data(client::pr_read_full_status(), client::ALLOCATION.into())
            .and_then(|data| {
                FullStatus::parse(&data).map_err(|error| ProbeError::Unfit(error.to_string()))
            });
        self.say(
            Probe::FullStatus,
            match status {
                Ok(status) => Answer::Yes(format!("{} registrants", status.registrants.len())),
                Err(ProbeError::Unfit(why)) => Answer::No(why),
                Err(other) => return Err(other),
            },
        );
        let flushed = self.a.ask(client::synchronize_cache16(), DataDir::None)?;
        self.good(Probe::Flush, &flushed);
        self.reads()
    }

    fn who(&mut self) -> Result<(), ProbeError> {
        let unfit = |error: client::ParseError| ProbeError::Unfit(error.to_string());
        let who = client::Identity::parse(&self.a.data(client::inquiry(96), 96)?).map_err(unfit)?;
        let capacity =
            Capacity::parse(&self.a.data(client::read_capacity16(), 32)?).map_err(unfit)?;
        let name = format!("{} {} {}", who.vendor, who.product, who.revision);
        let disk = who.present && who.device_type == 0 && !capacity.protection;
        self.yes_if(Probe::Disk, disk, name);
        let page = self.a.data(client::vpd(0x83, PAGE), PAGE.into());
        let naa = page.ok().and_then(|page| client::naa(&page).ok().flatten());
        let text = naa.map(|naa| naa.iter().map(|byte| format!("{byte:02x}")).collect());
        self.yes_if(
            Probe::Naa,
            naa.is_some(),
            text.unwrap_or_else(|| "none".into()),
        );
        let fits = matches!(capacity.block, 512 | 4096) && capacity.bytes() > DATA_OFFSET;
        let text = format!(
            "{} MiB, blocks of {} on {}",
            capacity.bytes() >> 20,
            capacity.block,
            capacity.physical_block
        );
        self.yes_if(Probe::Size, fits, text);
        self.block = capacity.block;
        self.bytes = capacity.bytes();
        self.zeroes_after_unmap = capacity.zeroes;
        if let Ok(page) = self.a.data(client::vpd(0xB0, PAGE), PAGE.into())
            && let Ok(limits) = BlockLimits::parse(&page)
        {
            self.max_transfer = limits.max_transfer_blocks.saturating_mul(capacity.block);
        }
        if let Ok(page) = self.a.data(client::vpd(0xB2, PAGE), PAGE.into())
            && let Ok(provisioning) = client::Provisioning::parse(&page)
        {
            self.unmaps = provisioning.write_same16_unmap;
            self.zeroes_after_unmap |= provisioning.zeroes;
        }
        Ok(())
    }

    fn cache(&mut self) -> Result<(), ProbeError> {
        let sense = Cdb::new(&[0x1A, 0x08, 0x08, 0, 64, 0]);
        let outcome = self.a.ask(sense, DataDir::In(64))?;
        let page = outcome.data_in.concat();
        let at = 4 + usize::from(page.get(3).copied().unwrap_or(0));
        let flags = match page.get(at) {
            Some(code) if code & 0x3F == 0x08 => page.get(at + 2).copied(),
            _ => None,
        };
        let answer = match flags {
            Some(flags) if flags & 0x04 == 0 => Answer::Yes("WCE=0".into()),
            Some(_) => Answer::No("WCE=1".into()),
            None => Answer::No("not told, counts as WCE=1".into()),
        };
        self.say(Probe::WriteCache, answer);
        Ok(())
    }

    fn capabilities(&mut self) -> Result<(), ProbeError> {
        let outcome = self
            .a
            .ask(client::pr_report_capabilities(), DataDir::In(8))?;
        let Ok(can) = Capabilities::parse(&outcome.data_in.concat()) else {
            for probe in [Probe::SurvivesPowerLoss, Probe::TypeSixOffered] {
                self.say(probe, Answer::No(said(&outcome)));
            }
            return Ok(());
        };
        let text = format!(
            "PTPL_C={} PTPL_A={}",
            u8::from(can.persists),
            u8::from(can.persists_now)
        );
        self.yes_if(Probe::SurvivesPowerLoss, can.persists, text);
        let text = format!("ATP_C={}", u8::from(can.all_ports));
        self.yes_if(Probe::AllPorts, can.all_ports, text);
        let six = PrType::ExclusiveAccessRegistrants;
        let (offered, text) = match can.kinds {
            // Then RESERVE itself tells.
            None => (true, "TMV=0, not told".into()),
            Some(kinds) => {
                let codes: Vec<_> = kinds.iter().map(|kind| kind.code()).collect();
                (kinds.contains(&six), format!("types {codes:?}"))
            }
        };
        self.yes_if(Probe::TypeSixOffered, offered, text);
        Ok(())
    }

    fn reads(&mut self) -> Result<(), ProbeError> {
        let block = self.block;
        let short = self.a.ask(client::read16(0, 1), DataDir::In(2 * block))?;
        let right = short.status == Status::Good && short.residual == Residual::Underflow(block);
        let text = format!("{}, {:?}", said(&short), short.residual);
        self.yes_if(Probe::Underflow, right, text);
        let cut = self.a.ask(client::read16(0, 2), DataDir::In(block))?;
        let right = cut.residual == Residual::Overflow(block);
        let text = format!("{}, {:?}", said(&cut), cut.residual);
        self.yes_if(Probe::Overflow, right, text);
        let most = match self.max_transfer {
            0 => LARGE,
            most => most.min(LARGE),
        };
        let large = self
            .a
            .ask(client::read16(0, most / block), DataDir::In(most))?;
        let right = large.status == Status::Good && large.data_in.concat().len() == most as usize;
        let limit = match self.max_transfer {
            0 => "no limit told".into(),
            most => format!("limit {} KiB", most >> 10),
        };
        let text = format!("{} KiB: {}, {limit}", most >> 10, said(&large));
        self.yes_if(Probe::LargeRead, right, text);
        let count = 4096 / block;
        let blocks = (self.bytes / u64::from(block)).saturating_sub(8).max(1);
        let samples = self.effort.samples;
        let text = latency(&mut self.a, samples, |a, n| {
            let lba = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % blocks / 8 * 8;
            a.ask(client::read16(lba, count), DataDir::In(4096))
        })?;
        self.say(Probe::ReadLatency, Answer::Yes(text));
        Ok(())
    }
}

/// p50 and p99 of one command after the other.
pub(super) fn latency(
    nexus: &mut Nexus,
    samples: u64,
    mut command: impl FnMut(&mut Nexus, u64) -> Result<twinsite_iscsi::scsi::ScsiOutcome, ProbeError>,
) -> Result<String, ProbeError> {
    let begun = Instant::now();
    let mut times = Vec::new();
    for n in 0..samples {
        let start = Instant::now();
        let outcome = command(nexus, n)?;
        times.push(start.elapsed());
        if outcome.status != Status::Good {
            return Ok(format!("ended by {}", said(&outcome)));
        }
        if begun.elapsed() > SAMPLE_TIME {
            break;
        }
    }
    times.sort_unstable();
    let at = |percent: usize| {
        times
            .get((times.len() * percent / 100).min(times.len().saturating_sub(1)))
            .map_or(0, Duration::as_micros)
    };
    Ok(format!(
        "p50 {} us, p99 {} us of {}",
        at(50),
        at(99),
        times.len()
    ))
}
