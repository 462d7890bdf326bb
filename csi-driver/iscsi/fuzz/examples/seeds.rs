//! Writes the seed corpus: golden bytes of the unit tests, and streams that two honest ends exchanged.
//!
//! `cargo run --example seeds -- corpus`. The files are committed; run it again when a wire form changes.

use std::fs;
use std::io;
use std::path::Path;

use twinsite_fuzz::peers::{Mode, Pair};
use twinsite_mirror::layout::{Beat, MapPage, RegionState, base_blocks};
use twinsite_register::{Epoch, Key, VolumeId};

/// Mode bits of an input for a session: see `peers::Mode`.
const MODES: [u8; 5] = [0x00, 0x01, 0x02, 0x04, 0x08];
/// Exchanges after which every login is complete.
const FULL: u8 = 15;

fn main() -> io::Result<()> {
    let corpus = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "corpus".to_owned());
    let corpus = Path::new(&corpus);
    sessions(corpus)?;
    blocks(corpus)
}

fn put(corpus: &Path, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = corpus.join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

fn sessions(corpus: &Path) -> io::Result<()> {
    for mode in MODES {
        for steps in [0, FULL] {
            let mut pair = Pair::after(Mode(mode), steps);
            pair.to_target.clear();
            pair.to_initiator.clear();
            pair.submit(0);
            pair.initiator.discover(pair.now);
            pair.run();
            pair.abort(0);
            pair.run();
            pair.initiator.logout(pair.now);
            pair.run();
            let head = |submitted: u8| [mode | submitted, steps, 0xFF];
            let to_target = [&head(0x40)[..], &pair.to_target].concat();
            let to_initiator = [&head(0x40)[..], &pair.to_initiator].concat();
            let name = format!("mode{mode}-after{steps}");
            put(corpus, "target_session", &name, &to_target)?;
            put(corpus, "initiator_session", &name, &to_initiator)?;
            put(
                corpus,
                "frame",
                &format!("out-{name}"),
                &[&[mode & 2, 9], &pair.to_target[..]].concat(),
            )?;
            put(
                corpus,
                "frame",
                &format!("in-{name}"),
                &[&[mode & 2, 9], &pair.to_initiator[..]].concat(),
            )?;
        }
    }
    Ok(())
}

fn blocks(corpus: &Path) -> io::Result<()> {
    let beat = Beat {
        volume: VolumeId([0x21; 16]),
        epoch: Epoch(5),
        attach_key: Some(Key::from_u64(0xb100_0000_0000_0100)),
        beat: 6,
        flushed: 7,
    };
    let page = MapPage::filled(0, 258, Epoch(5), RegionState::Clean);
    let base = base_blocks(Epoch(4), &[1, 2, 3]);
    // Trailing zeros are left out: the target fills them in.
    for (name, kind, block) in [
        ("beat", 1, beat.emit().to_vec()),
        ("map", 2, page.emit()[..64].to_vec()),
        ("base", 3, base[0].to_vec()),
    ] {
        let end = block
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        put(corpus, "layout", name, &[&[kind], &block[..end]].concat())?;
    }
    Ok(())
}
