//! The register: how it is seen from a site, backup and restore, and what operators and humans do to it.

use twinsite_mirror::ids::{
    Epoch, Gen, GroupId, Members, RegisterId, Site, StampId, TxId, VolumeId,
};
use twinsite_register::{Active, Class, Mark, Order, SbMark, State as RealLife, classify};

use super::rules::Mistake;
use super::state::{Life, Phase, Register, State};
use super::{DELETED_IN_USE, EPOCHS, Lifecycle, Next, RESEED_REFUSED};
use crate::table::{Live, Reg, Role};

impl Lifecycle {
    /// R as the site sees it, with the superblocks of `legs` known.
    pub(super) fn class(&self, s: &State, site: u8, legs: u8) -> Reg {
        if !Self::readable(s, site) {
            return Reg::Unreadable;
        }
        let r = &s.register;
        let (id, epoch, seq) = s.marks[usize::from(site)];
        let mark = Mark {
            register_id: register_id(id),
            epoch: Epoch(epoch.into()),
            seq: seq.into(),
        };
        let marks: &[Mark] = if id == 0 || self.made(Mistake::NoMarks) {
            &[]
        } else {
            &[mark]
        };
        let superblocks: Vec<SbMark> = (0..2)
            .filter(|x| legs >> x & 1 == 1)
            .filter_map(|x| s.legs[x].sb)
            .map(|sb| SbMark {
                register_id: register_id(sb.register),
                epoch: Epoch(sb.epoch.into()),
                generation: Gen([sb.generation; 16]),
                seq: sb.seq.into(),
                unformatted: sb.format == 0,
            })
            .collect();
        let real = (r.life != Life::Absent).then(|| real(r));
        match classify(real.as_ref(), marks, &superblocks) {
            Class::Below(_) if !(self.made(Mistake::BelowLast) && r.life != Life::Live) => {
                Reg::Below
            }
            Class::Absent => Reg::Absent,
            Class::Below(_) | Class::Creating | Class::Live | Class::Tombstone => match r.life {
                Life::Absent => Reg::Absent,
                Life::Creating => Reg::Creating,
                Life::Tombstone => Reg::Tombstone,
                Life::Live => Reg::Live(live(r)),
            },
        }
    }

    pub(super) fn witness_steps(&self, s: &State, out: &mut Next) {
        let r = &s.register;
        if s.restores > 0 && s.backup.is_none() && r.life != Life::Absent {
            Self::to(out, s, "witness backed up", (r.epoch, 0), |t| {
                t.backup = Some(s.register)
            });
        }
        // Not explored: a site that saw nothing since the backup (the gap that 2.3 names).
        if let Some(backup) = s.backup
            && s.restores > 0
            && backup != *r
            && s.marks.iter().all(|m| *m == (r.id, r.epoch, r.seq))
        {
            Self::to(out, s, "witness restored", (backup.epoch, backup.id), |t| {
                t.register = backup;
                t.restores -= 1;
                t.restored = true;
            });
        }
        if r.life == Life::Absent && self.config.start == 0 {
            Self::to(out, s, "operator creates R", (1, 0), |t| {
                t.register = Register {
                    life: Life::Creating,
                    id: 1,
                    txid: 1,
                    ..Register::default()
                };
                t.register.gens[0] = 1;
            });
        }
        if s.deletes > 0 && r.life == Life::Live && r.epoch + 1 < EPOCHS as u8 {
            let used = r.holder != 0 || s.writers.iter().any(|w| w.phase != Phase::Off);
            let believed = (0..2).any(|site| matches!(self.class(s, site, 0), Reg::Live(_)));
            if believed && (!used || self.made(Mistake::TombstoneWhileHeld)) {
                Self::to(
                    out,
                    s,
                    "operator writes the tombstone",
                    (r.epoch + 1, 0),
                    |t| {
                        t.deletes -= 1;
                        t.deleted = true;
                        t.register = Register {
                            life: Life::Tombstone,
                            id: r.id,
                            epoch: r.epoch + 1,
                            ..Register::default()
                        };
                        t.register.txid = next_txid(s);
                        if used {
                            t.fault = DELETED_IN_USE;
                        }
                    },
                );
            }
        }
        if s.losses > 0 && r.life == Life::Live {
            Self::to(out, s, "witness loses R", (r.epoch, 0), |t| {
                t.lost_register = Some(s.register);
                t.register = Register::default();
                t.losses -= 1;
            });
        }
        self.humans(s, out);
        self.reseed(s, out);
    }

    /// Both agents are detached; the human names an equal pair, or one leg, and accepts what only the other one has. The
    /// legs get the new id under a fence before the register is made.
    fn reseed(&self, s: &State, out: &mut Next) {
        let (Some(old), Life::Absent) = (s.lost_register, s.register.life) else {
            return;
        };
        let idle = s.writers.iter().all(|w| w.phase == Phase::Off);
        let [Some(a), Some(b)] = s.legs.map(|l| l.sb) else {
            return;
        };
        if (!idle && !self.made(Mistake::ReseedRunning)) || s.next_key >= 7 {
            return;
        }
        let marks = s.marks.iter().map(|m| (m.1, m.2));
        let known = marks.chain([(a.epoch, a.seq), (b.epoch, b.seq)]);
        let highest = known.fold((0, 0), |m, k| (m.0.max(k.0), m.1.max(k.1)));
        let pair = a.role == Role::Member
            && b.role == Role::Member
            && (a.epoch, a.generation, a.members, b.members) == (b.epoch, b.generation, 3, 3);
        let choices: &[u8] = if pair { &[3, 1, 2] } else { &[1, 2] };
        for &set in choices {
            let base = if self.made(Mistake::ReseedOldEpoch) {
                old.epoch.min(a.epoch).min(b.epoch)
            } else {
                highest.0
            };
            if usize::from(base) + 2 >= EPOCHS {
                continue;
            }
            let site = if set == 2 { 1 } else { 0 };
            Self::to(out, s, "human reseeds", (set, base + 1), |t| {
                let n = &mut t.register;
                (n.life, n.id, n.txid) = (Life::Live, old.id + 1, next_txid(s).max(old.txid + 1));
                (n.epoch, n.members) = (base + 1, set);
                (n.site, n.seq) = (site, highest.1 + 1);
                n.order = (a.order.0.max(b.order.0).max(old.order.0) + 1, 0);
                n.history[usize::from(n.epoch)] = set;
                n.gens[usize::from(n.epoch)] = s.next_gen;
                if !self.made(Mistake::ReseedNoFormer) {
                    n.former = 1 << old.id;
                }
                n.unconfirmed = 3 & !set;
                let id = n.id;
                t.next_gen += 1;
                t.lost_register = None;
                let mut best = 0;
                for x in (0..2usize).filter(|x| set >> x & 1 == 1) {
                    if let Some(sb) = &mut t.legs[x].sb {
                        (sb.register, sb.sb_seq, sb.awaits) = (id, sb.sb_seq + 1, true);
                        t.register.granted[x] = Some((sb.epoch, sb.sb_seq));
                        // A grant names the generation; it is no parent of the new register.
                        t.register.gens[usize::from(sb.epoch)] = sb.generation;
                    }
                    t.legs[x].holder = s.next_key * 2 + site;
                    best = best.max(s.legs[x].data);
                }
                t.next_key += 1;
                t.acked = best.min(s.acked);
                if set != 3 {
                    let lost = usize::from(set == 1);
                    t.legs[lost].lost = true;
                }
                // The new register must be believed at the site that goes on.
                let seen = 3;
                if !matches!(self.class(t, site, seen), Reg::Live(_) | Reg::Unreadable) {
                    t.fault = RESEED_REFUSED;
                }
            });
        }
    }

    /// Force of the leg that R does not name, once a human made sure that the other side is dead; later the confirmation.
    /// The leg is fenced with a key of its site first: without R the other site could still run by U4.
    fn humans(&self, s: &State, out: &mut Next) {
        let r = &s.register;
        for x in 0..2usize {
            if r.unconfirmed >> x & 1 == 1 {
                Self::to(
                    out,
                    s,
                    "human confirms the lost branch",
                    (x as u8, 0),
                    |t| {
                        t.register.unconfirmed &= !(1 << x);
                        t.register.txid = next_txid(s);
                        t.legs[x].lost = false;
                    },
                );
            }
            let Some(sb) = s.legs[x].sb else { continue };
            let idle = s.writers.iter().all(|w| w.phase == Phase::Off);
            let believed = matches!(self.class(s, x as u8, 1 << x), Reg::Live(_));
            if s.forces == 0
                || s.next_key >= 7
                || !idle
                || !believed
                || r.members >> x & 1 == 1
                || r.epoch + 1 >= EPOCHS as u8
            {
                continue;
            }
            Self::to(out, s, "human forces leg", (x as u8, r.epoch + 1), |t| {
                t.forces -= 1;
                let n = &mut t.register;
                n.epoch += 1;
                (n.members, n.site, n.seq, n.holder) = (1 << x, x as u8, r.seq + 1, 0);
                n.history[usize::from(n.epoch)] = n.members;
                n.gens[usize::from(n.epoch)] = s.next_gen;
                n.granted[x] = Some((sb.epoch, sb.sb_seq + 1));
                n.unconfirmed |= 1 << (1 - x);
                n.txid = next_txid(s);
                t.next_gen += 1;
                if let Some(sb) = &mut t.legs[x].sb {
                    (sb.sb_seq, sb.awaits) = (sb.sb_seq + 1, true);
                }
                t.acked = s.legs[x].data;
                t.legs[1 - x].lost = true;
                if !self.made(Mistake::ForceNoFence) {
                    t.legs[x].holder = s.next_key * 2 + x as u8;
                    t.next_key += 1;
                }
            });
        }
    }
}

pub(super) fn next_txid(s: &State) -> u8 {
    let backup = s.backup.map_or(0, |b| b.txid);
    let read = s.executors.iter().map(|e| e.read.txid).max().unwrap_or(0);
    s.register.txid.max(backup).max(read) + 1
}

fn register_id(id: u8) -> RegisterId {
    RegisterId([id; 16])
}

pub(super) fn live(r: &Register) -> Live {
    let history = r.history;
    Live {
        epoch: r.epoch,
        members: r.members,
        site: r.site,
        seq: r.seq,
        landed: 0,
        history,
        granted: r.granted,
    }
}

/// As much of the real value as `classify` looks at.
fn real(r: &Register) -> twinsite_register::Register {
    let state = match r.life {
        Life::Absent | Life::Creating => RealLife::Creating,
        Life::Live => RealLife::Live,
        Life::Tombstone => RealLife::Tombstone,
    };
    let former = (0..8)
        .filter(|id| r.former >> id & 1 == 1)
        .map(register_id)
        .collect();
    twinsite_register::Register {
        version: 1,
        register_id: register_id(r.id),
        group: GroupId([1; 16]),
        volumes: vec![VolumeId([1; 16])],
        state,
        epoch: Epoch(r.epoch.into()),
        generation: Gen([r.gens[usize::from(r.epoch)]; 16]),
        members: Members::from_bits(r.members).unwrap_or(Members::NONE),
        active: Active {
            site: if r.site == 0 { Site::A } else { Site::B },
            seq: r.seq.into(),
            latched: false,
        },
        holder: None,
        stamp_id: StampId([1; 16]),
        order: Order::default(),
        txid: TxId([r.txid; 16]),
        granted: vec![],
        former,
        unconfirmed: Members::NONE,
        no_rejoin: Members::NONE,
        retired: vec![],
        landed: Members::NONE,
        parents: vec![],
        note: vec![],
    }
}
