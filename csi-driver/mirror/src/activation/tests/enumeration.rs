//! The enumeration: every combination of a reduced domain matches exactly one row, whose predicate is written here anew and
//! in the words of the protocol, and the row says what the procedure says.

use std::collections::BTreeMap;

use super::*;

/// The class of a leg, said once more from the text of 2.8 and from epoch numbers instead of the views' helpers.
fn class(r: &LiveView, x: Leg, view: &LegView) -> Fit {
    let LegView::Sb(s) = view else {
        return if *view == LegView::Away {
            Fit::Away
        } else {
            Fit::Bad
        };
    };
    let above = s.epoch > r.epoch || s.seq > r.seq;
    let twin = s.epoch == r.epoch && s.generation != r.generation;
    if s.register == RegisterIdView::Other
        || (s.register == RegisterIdView::Same && (above || twin))
    {
        return Fit::Ahead;
    }
    if !r.members.contains(x) {
        return Fit::Stale;
    }
    let members_at = |epoch: Epoch| {
        if epoch == r.epoch {
            return Some((r.generation, r.members));
        }
        r.parents
            .iter()
            .flatten()
            .find(|p| p.epoch == epoch)
            .map(|p| (p.generation, p.members))
    };
    let known = members_at(s.epoch).filter(|(generation, _)| *generation == s.generation);
    let later_all = (s.epoch.0 + 1..=r.epoch.0)
        .filter_map(|e| members_at(Epoch(e)))
        .all(|(_, members)| members.contains(x));
    let role_fits = match (s.role, known) {
        (Role::Member | Role::Growing, Some((_, own))) => own.contains(x),
        (Role::Candidate, Some(_)) => s.epoch != r.epoch,
        _ => false,
    };
    let overtaken = r.landed.contains(x) && (s.epoch != r.epoch || s.role == Role::Candidate);
    let fresh = s.beat == BeatView::Fresh && s.register == RegisterIdView::Same;
    if s.granted || (role_fits && later_all && !overtaken && fresh) {
        Fit::Usable
    } else {
        Fit::Damaged
    }
}

/// Every row whose condition holds. The conditions do not depend on the order in which `decide` asks.
fn rows(site: Site, mv: Mv, r: &RegView, legs: &[LegView; 2], behind: Members) -> Vec<(Row, Act)> {
    use Refusal as W;
    let mut out = Vec::new();
    let mut row = |name, applies: bool, act| {
        if applies {
            out.push((name, act));
        }
    };
    let refuse = Act::Refuse;
    let [a, b] = legs;
    let none = *a == LegView::Away && *b == LegView::Away;
    row(Row::T1, *r == RegView::Tombstone, refuse(W::Deleted));
    row(Row::T2, *r == RegView::Creating, refuse(W::Creating));
    row(Row::T3, *r == RegView::Absent, refuse(W::RegisterMissing));
    row(Row::T4, *r == RegView::Below, refuse(W::WitnessBehind));
    let askable = matches!(r, RegView::Live(_) | RegView::Unreadable);
    row(Row::T5, none && askable, refuse(W::NoLeg));
    if none {
        return out;
    }
    if let RegView::Live(l) = r {
        let f = [class(l, Leg::A, a), class(l, Leg::B, b)];
        let is = |x: Leg, fit: Fit| f[x.index()] == fit;
        let ahead = is(Leg::A, Fit::Ahead) || is(Leg::B, Fit::Ahead);
        let turn = l.site == site || mv != Mv::None;
        let go = !ahead && turn;
        let run = |set, change| Act::Run {
            set,
            cas: Some(Cas {
                change,
                moves: l.site != site,
            }),
        };
        row(Row::L1, ahead, refuse(W::WitnessBehind));
        row(Row::L2, !ahead && !turn, refuse(W::NotActive));
        let pair = go && l.members == Members::BOTH;
        let (ua, ub) = (is(Leg::A, Fit::Usable), is(Leg::B, Fit::Usable));
        let lag = (behind.contains(Leg::A), behind.contains(Leg::B));
        row(
            Row::L3,
            pair && ua && ub && lag.0 == lag.1,
            run(Members::BOTH, Change::Keep),
        );
        for x in Leg::BOTH {
            let y = x.other();
            let only_x = Members::only(x);
            let lags = if y == Leg::A {
                lag.0 && !lag.1
            } else {
                lag.1 && !lag.0
            };
            row(
                Row::L3b,
                pair && ua && ub && lags,
                run(only_x, Change::Shrink),
            );
            let alone = pair && is(x, Fit::Usable) && !is(y, Fit::Usable);
            row(
                Row::L4,
                alone && is(y, Fit::Away),
                run(only_x, Change::Shrink),
            );
            row(
                Row::L5,
                alone && !is(y, Fit::Away),
                run(only_x, Change::Shrink),
            );
            let solo = go && l.members == only_x;
            let growing = matches!(&legs[x.index()],
                LegView::Sb(s) if s.role == Role::Growing && s.epoch == l.epoch);
            let usable = solo && is(x, Fit::Usable);
            row(Row::L8, usable && !growing, run(only_x, Change::Keep));
            row(Row::L9, usable && growing, run(only_x, Change::Bump));
            row(Row::L10, solo && is(x, Fit::Away), refuse(W::WaitMember));
            let broken = solo && (is(x, Fit::Bad) || is(x, Fit::Damaged));
            row(Row::L11, broken, refuse(W::MemberDamaged));
        }
        let away = is(Leg::A, Fit::Away) || is(Leg::B, Fit::Away);
        row(Row::L6, pair && !ua && !ub && away, refuse(W::WaitMember));
        row(
            Row::L7,
            pair && !ua && !ub && !away,
            refuse(W::MemberDamaged),
        );
    }
    if *r == RegView::Unreadable {
        let sbs: Vec<&SbView> = [a, b].into_iter().filter_map(LegView::superblock).collect();
        let newest = sbs.iter().map(|s| (s.seq, s.epoch)).max();
        let names_other = sbs
            .iter()
            .rfind(|s| Some((s.seq, s.epoch)) == newest)
            .is_some_and(|s| s.site != site);
        let named = sbs.iter().any(|s| s.awaits_register);
        let go = mv == Mv::None && !names_other && !named;
        let member = |view: &LegView, members: Members| matches!(view, LegView::Sb(s) if s.role == Role::Member && s.members == members);
        let equal = matches!((a, b), (LegView::Sb(s), LegView::Sb(t)) if s.epoch == t.epoch && s.generation == t.generation);
        let pair = member(a, Members::BOTH) && member(b, Members::BOTH) && equal;
        let certified = |x: Leg| {
            let (own, other) = (&legs[x.index()], &legs[x.other().index()]);
            let (LegView::Sb(s), LegView::Sb(o)) = (own, other) else {
                return false;
            };
            let copy = matches!(o.role, Role::New | Role::Target);
            member(own, Members::only(x))
                && !member(other, Members::only(x.other()))
                && (o.epoch < s.epoch || (o.epoch == s.epoch && copy))
        };
        let run = |set| Act::Run { set, cas: None };
        row(Row::U1, mv != Mv::None, refuse(W::WitnessNeeded));
        row(Row::U2, mv == Mv::None && names_other, refuse(W::NotActive));
        row(Row::U3, go && pair, run(Members::BOTH));
        for x in Leg::BOTH {
            row(Row::U4, go && certified(x), run(Members::only(x)));
        }
        let neither = !pair && !certified(Leg::A) && !certified(Leg::B);
        let turn = mv == Mv::None && !names_other;
        row(
            Row::U5,
            turn && (neither || named),
            refuse(W::WitnessNeeded),
        );
    }
    out
}

struct Tally {
    combinations: u64,
    hits: BTreeMap<Row, u64>,
}

impl Tally {
    fn check(&mut self, site: Site, mv: Mv, r: &RegView, legs: &[LegView; 2], behind: Members) {
        self.combinations += 1;
        let decision = decide(site, mv, r, legs, behind);
        let matching = rows(site, mv, r, legs, behind);
        assert!(
            matching.len() == 1 && matching[0] == (decision.row, decision.act),
            "{site} {mv:?} {r:?} {legs:?} behind {behind}: {decision:?}, rows {matching:?}"
        );
        *self.hits.entry(decision.row).or_default() += 1;
        if let Act::Run { set, cas } = decision.act {
            safe(site, mv, r, legs, set, cas);
        }
    }
}

/// What every answer that runs must be, whatever row it came from.
fn safe(site: Site, mv: Mv, r: &RegView, legs: &[LegView; 2], set: Members, cas: Option<Cas>) {
    let context = || format!("{site} {mv:?} {r:?} {legs:?} -> {set} {cas:?}");
    assert!(!set.is_empty(), "{}", context());
    for leg in set.iter() {
        let LegView::Sb(s) = legs[leg.index()] else {
            panic!("{}", context())
        };
        let granted = s.granted && matches!(r, RegView::Live(_));
        // I6: a Target is never promoted but by a human's grant.
        assert!(
            granted || !matches!(s.role, Role::Target | Role::New),
            "{}",
            context()
        );
        if *r == RegView::Unreadable {
            assert!(
                s.role == Role::Member && s.members == set,
                "R12: {}",
                context()
            );
            assert!(
                legs.iter()
                    .filter_map(LegView::superblock)
                    .all(|s| !s.awaits_register),
                "R44: {}",
                context()
            );
        }
    }
    match (r, cas) {
        (RegView::Live(l), Some(cas)) => {
            assert!(l.members.includes(set), "{}", context());
            assert_eq!(cas.moves, l.site != site, "{}", context());
            assert_eq!(
                cas.change == Change::Shrink,
                set != l.members,
                "{}",
                context()
            );
            assert!(
                cas.change != Change::Bump || set.sole().is_some(),
                "{}",
                context()
            );
        }
        (RegView::Unreadable, None) => assert_eq!(mv, Mv::None, "{}", context()),
        _ => panic!(
            "a run without a request, or a request without a register: {}",
            context()
        ),
    }
}

fn behinds(legs: &[LegView; 2]) -> impl Iterator<Item = Members> {
    let seen: Members = Leg::BOTH
        .into_iter()
        .filter(|l| legs[l.index()].superblock().is_some())
        .collect();
    (0..4)
        .filter_map(Members::from_bits)
        .filter(move |&behind| seen.includes(behind))
}

#[test]
fn every_combination_matches_exactly_one_row() {
    let mut tally = Tally {
        combinations: 0,
        hits: BTreeMap::new(),
    };
    let sites = [Site::A, Site::B];
    let mvs = [Mv::None, Mv::Planned, Mv::Failover];

    // Live: the members and site of a superblock play no part, so they do not vary.
    let mut live_legs = vec![
        LegView::Away,
        LegView::Bad,
        LegView::Sb(sb(Role::New, 0, false, 0, Site::A, 0)),
    ];
    for role in [Role::Member, Role::Growing, Role::Candidate, Role::Target] {
        for epoch in 2..=5 {
            for gen_ok in [true, false] {
                live_legs.push(LegView::Sb(sb(role, epoch, gen_ok, 0, Site::A, SEQ)));
            }
        }
    }
    live_legs.push(LegView::Sb(sb(Role::Member, 4, true, 3, Site::B, SEQ + 1)));
    live_legs.push(LegView::Sb(SbView {
        beat: BeatView::Behind,
        ..sb(Role::Member, 4, true, 3, Site::A, SEQ)
    }));
    for (register, role) in [
        (RegisterIdView::Former, Role::Member),
        (RegisterIdView::Other, Role::Member),
        (RegisterIdView::Former, Role::Target),
    ] {
        live_legs.push(LegView::Sb(SbView {
            register,
            ..sb(role, 4, true, 3, Site::A, SEQ)
        }));
    }
    live_legs.push(LegView::Sb(SbView {
        granted: true,
        ..sb(Role::Target, 2, false, 0, Site::A, SEQ)
    }));
    let mut registers = Vec::new();
    for members in 1..=3 {
        for landed in 0..=3 {
            for h3 in 0..=3 {
                for h2 in [0, 2, 3] {
                    registers.push(live(members, Site::A, landed, [0, 3, h2, h3]));
                }
            }
        }
    }
    for r in registers.into_iter().map(RegView::Live) {
        for a in &live_legs {
            for b in &live_legs {
                let legs = [*a, *b];
                for behind in behinds(&legs) {
                    for (site, mv) in [
                        (Site::A, Mv::None),
                        (Site::B, Mv::None),
                        (Site::B, Mv::Failover),
                    ] {
                        tally.check(site, mv, &r, &legs, behind);
                    }
                }
            }
        }
    }

    // Without a live register: the register's view of a leg plays no part, everything else does.
    let mut bare_legs = vec![
        LegView::Away,
        LegView::Bad,
        LegView::Sb(sb(Role::New, 0, false, 0, Site::A, 0)),
    ];
    for role in [Role::Member, Role::Growing, Role::Candidate, Role::Target] {
        for epoch in 3..=5 {
            for gen_ok in [true, false] {
                for (site, seq) in [(Site::A, 1), (Site::A, 2), (Site::B, 2), (Site::B, 3)] {
                    let sets: &[u8] = if role == Role::Member {
                        &[1, 2, 3]
                    } else {
                        &[0]
                    };
                    for &members in sets {
                        bare_legs.push(LegView::Sb(sb(role, epoch, gen_ok, members, site, seq)));
                    }
                }
            }
        }
    }
    let mut named_legs = Vec::new();
    for (role, members) in [
        (Role::Member, 1),
        (Role::Member, 2),
        (Role::Member, 3),
        (Role::Target, 0),
    ] {
        for epoch in 3..=5 {
            named_legs.push(LegView::Sb(SbView {
                awaits_register: true,
                ..sb(role, epoch, true, members, Site::A, 1)
            }));
        }
    }
    bare_legs.extend(named_legs);
    for r in [
        RegView::Unreadable,
        RegView::Absent,
        RegView::Creating,
        RegView::Tombstone,
        RegView::Below,
    ] {
        for a in &bare_legs {
            for b in &bare_legs {
                let legs = [*a, *b];
                for site in sites {
                    for mv in mvs {
                        tally.check(site, mv, &r, &legs, Members::NONE);
                    }
                }
            }
        }
    }

    println!("{} combinations", tally.combinations);
    for (row, hits) in &tally.hits {
        println!("  {row:?} {hits}");
    }
    assert_eq!(tally.hits.len(), 22, "rows never reached: {:?}", tally.hits);
}
