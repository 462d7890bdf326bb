//! Death at random instants: in the middle of an attach, of a copy, of a write, of a clean-up after the death before.
//!
//! Nothing waits for a good moment. Every few deaths the volume is opened wherever the register says it lives, mounted, and
//! every acknowledged record is looked for; a volume that cannot be opened any more ends the run.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use twinsite_api::{AttachmentMode, MoveMode};

use super::dice::Dice;
use super::stage::{Stage, device};

/// Deaths between two openings.
const BETWEEN_LOOKS: u32 = 5;
const OPEN_LIMIT: Duration = Duration::from_secs(120);
/// Short: an order of before may win meanwhile, and then this one waits in vain.
const ONE_TRY: Duration = Duration::from_secs(12);

/// Kills until `deaths` processes have died.
///
/// # Errors
/// A record is lost in a way that reading shows as an error, or the volume cannot be opened.
pub fn kills(stage: &mut Stage, deaths: u32) -> Result<()> {
    let mut dice = Dice::new(stage.options.seed);
    let seed = stage.options.seed;
    stage
        .timeline
        .act(&format!("Deaths at random instants, SEED={seed}"));
    stage.start_room()?;
    let mut died = 0;
    let mut attachment = stage.attachment();
    while died < deaths {
        for _ in 0..BETWEEN_LOOKS {
            thread::sleep(Duration::from_micros(dice.below(1_500_000)));
            let victims: &[usize] = match dice.below(5) {
                0 | 1 => &[0],
                2 | 3 => &[1],
                _ => &[0, 1],
            };
            for &victim in victims {
                stage.pair.sites[victim].pull_the_plug();
                died += 1;
                stage.report.deaths = died;
            }
            thread::sleep(Duration::from_micros(dice.below(200_000)));
            for &victim in victims {
                stage.pair.start_agent(victim)?;
            }
            if victims.contains(&stage.active) {
                attachment = order_again(stage, &mut dice, &attachment)?;
            }
        }
        attachment = open_where_it_lives(stage, &attachment)
            .with_context(|| format!("after {died} deaths, SEED={}", stage.options.seed))?;
        stage.verify()?;
        if !stage.room_runs() {
            stage.start_room()?;
        }
        stage.write_records(20)?;
        stage.timeline.event(&format!("{died} of {deaths} deaths"));
    }
    Ok(())
}

/// The agent at the active site died. Its old attachment stays (a restarted agent goes on by itself), is replaced by a new
/// one at the same site, or the other site is told to take over.
fn order_again(stage: &mut Stage, dice: &mut Dice, old: &str) -> Result<String> {
    let here = stage.active;
    match dice.below(3) {
        0 => Ok(old.to_owned()),
        1 => {
            stage.pair.sites[here].remove(old);
            stage.pair.order(here, AttachmentMode::Writer, None)
        }
        _ => {
            // The old order stays in the dead site's folder, as it would: it must find itself outdated.
            let order = stage.pair.move_order(MoveMode::Failover)?;
            stage.active = 1 - here;
            stage
                .pair
                .order(1 - here, AttachmentMode::Writer, Some(order))
        }
    }
}

/// Opens and mounts the volume at the site that the register names, whatever became of the orders before.
fn open_where_it_lives(stage: &mut Stage, last: &str) -> Result<String> {
    if stage.room_runs() {
        return Ok(last.to_owned());
    }
    for index in 0..2 {
        let _ = stage.pair.unmount(index);
    }
    let start = Instant::now();
    loop {
        for site in &stage.pair.sites {
            site.remove_all_attachments()?;
        }
        // An order of before may still have moved it.
        let lives = stage.pair.register()?.active.site.leg().index();
        match stage.open(lives, None, ONE_TRY) {
            Ok(status) => {
                stage.pair.mount(lives, &device(&status)?)?;
                return Ok(stage.attachment());
            }
            Err(error) if start.elapsed() > OPEN_LIMIT => return Err(error),
            Err(_) => {}
        }
    }
}
