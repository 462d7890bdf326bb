//! The list. Each patch must find its place exactly once (a test looks).

use super::By::{Both, Tests};
use super::{By, Mutant};

const fn mutant(
    name: &'static str,
    rule: &'static str,
    by: By,
    file: &'static str,
    find: &'static str,
    put: &'static str,
) -> Mutant {
    Mutant {
        name,
        rule,
        by,
        file,
        find,
        put,
    }
}

macro_rules! files {
    ($($name:ident = $path:literal;)*) => { $(const $name: &str = $path;)* };
}

files! {
    AGAIN = "csi-driver/mirror/src/serve/again.rs";
    BIRTH = "csi-driver/mirror/src/attach/oneshot/birth.rs";
    CHOOSE = "csi-driver/mirror/src/attach/choose.rs";
    CLEAR = "csi-driver/mirror/src/serve/clear.rs";
    COMMANDS = "csi-driver/mirror/src/serve/commands.rs";
    COPY = "csi-driver/mirror/src/serve/copy.rs";
    DECIDE = "csi-driver/mirror/src/activation/mod.rs";
    DURABLE = "csi-driver/mirror/src/serve/durable.rs";
    EQUALISE = "csi-driver/mirror/src/serve/equalise.rs";
    FENCE = "csi-driver/mirror/src/fence.rs";
    FINISH = "csi-driver/mirror/src/attach/finish.rs";
    FROZEN = "csi-driver/mirror/src/serve/frozen.rs";
    GROUP = "csi-driver/mirror/src/attach/oneshot/group.rs";
    GROW = "csi-driver/mirror/src/serve/grow.rs";
    GUEST = "csi-driver/mirror/src/serve/guest.rs";
    LEASE = "csi-driver/mirror/src/attach/lease.rs";
    LINK = "csi-driver/mirror/src/serve/link.rs";
    MARK = "operator/register/src/mark.rs";
    ATTACH = "csi-driver/mirror/src/attach/mod.rs";
    MOMENT = "csi-driver/mirror/src/attach/oneshot/moment.rs";
    ONESHOT = "csi-driver/mirror/src/attach/oneshot/mod.rs";
    ORDER = "csi-driver/mirror/src/attach/order.rs";
    ORDERS = "csi-driver/mirror/src/serve/orders.rs";
    OUTCOME = "operator/register/src/outcome.rs";
    READS = "csi-driver/mirror/src/serve/reads.rs";
    REJOIN = "csi-driver/mirror/src/serve/rejoin.rs";
    REQUESTS = "csi-driver/mirror/src/serve/register.rs";
    SETTLE = "csi-driver/mirror/src/attach/settle.rs";
    STATE = "csi-driver/mirror/src/serve/state.rs";
    SUPERBLOCK = "csi-driver/mirror/src/serve/superblock.rs";
    TAKE_OVER = "csi-driver/mirror/src/serve/take_over.rs";
    TRANSITION = "operator/register/src/transition/mod.rs";
    TRANSITIONS = "csi-driver/mirror/src/serve/transitions.rs";
    UNIT = "csi-driver/iscsi/src/scsi/unit.rs";
    VIEW = "csi-driver/mirror/src/activation/view.rs";
}

#[rustfmt::skip]
pub const MUTANTS: &[Mutant] = &[
    mutant("data-before-the-page", "R1", Both, GUEST, "if gate1 == 0 {", "if gate1 < 9 {"),
    mutant("answer-before-both-pages", "R1", Tests, GUEST, "req.issued && req.is_write() && req.gate2 == 0 && req.done()", "req.issued && req.is_write() && req.done()"),
    mutant("answer-after-one-leg", "R2", Both, GUEST, "req.done().includes(req.need)", "!req.done().is_empty()"),
    mutant("answer-before-the-superblock-of-a-solo", "R3", Both, STATE, "State::SbWrite(Won::Shrink | Won::Bump) => hold,", "State::SbWrite(Won::Shrink | Won::Bump) => solo,"),
    mutant("no-map-before-the-superblock-of-a-solo", "R3", Tests, SUPERBLOCK, "        steps.push(Step::DirtyPages);\n", ""),
    mutant("guess-the-outcome", "R4", Both, REQUESTS, "if result == CasResult::Won\n", "if result != CasResult::Conflict\n"),
    mutant("rejoin-without-a-fence", "R5", Tests, REJOIN, "        let op = fence.start();\n        self.rejoin.prep = Some(Prep::Fence { fence, op });", "        let _ = fence.start();\n        self.links[y.index()].fenced();\n        self.rejoin.target = Some(y);\n        self.rejoin.prep = Some(Prep::Slots { first: None });"),
    mutant("fence-does-not-wait", "R6", Both, UNIT, "            pending,\n            management::Awaited::Reservation {", "            BTreeSet::from_iter(pending.into_iter().filter(|_| false)),\n            management::Awaited::Reservation {"),
    mutant("any-reservation-type-will-do", "R7", Tests, FENCE, "r.holder && r.kind == EXCLUSIVE_REGISTRANTS && own.same_attach(r.key)", "r.holder && own.same_attach(r.key)"),
    mutant("reads-without-lease", "R8", Both, READS, "if self.policy.lease && !self.lease.runs(self.now) {\n            self.counters.lease_holds += 1;", "if false {\n            self.counters.lease_holds += 1;"),
    mutant("lease-of-the-old-writer-is-not-waited-out", "R8", Tests, LEASE, "Some(evidence.last_fence + wait)", "(wait.is_zero()).then_some(evidence.last_fence + wait)"),
    mutant("nothing-is-copied-before-its-first-access", "R9", Both, COPY, "if self.pending.is_empty() && self.must.is_empty() {\n            return None;", "if !run.is_empty() {\n            return None;"),
    mutant("grow-without-a-sync", "R10", Both, SUPERBLOCK, "            Step::Sync(Members::BOTH),\n            Step::JoinPages(y),", "            Step::JoinPages(y),"),
    mutant("grow-before-x-says-growing", "R11", Tests, GROW, "let steps = self.growing_script(y.other(), y);", "let steps = self.growing_script(y.other(), y).into_iter().take(3).collect();"),
    mutant("half-a-pair-runs-alone", "R12", Tests, DECIDE, "    refuse(Row::U5, Refusal::WitnessNeeded)\n}", "    run(Row::U4, Members::only(site.leg()))\n}"),
    mutant("clear-without-sync", "R13", Both, CLEAR, ".all(|leg| self.syncs[leg.index()].covers(marks[leg.index()]))", ".all(|leg| self.syncs[leg.index()].covers(marks[leg.index()]) || true)"),
    mutant("restart-is-forgotten", "R14", Both, LINK, "let lacking = restarted && self.syncs[index].has_unflushed();", "let lacking = false;"),
    mutant("resend-before-the-verification", "R15", Tests, LINK, "        self.links[leg.index()].link = Link::Checking;\n        self.send(leg, Purpose::Verify);", "        self.links[leg.index()].link = Link::Ready;\n        self.resume_leg(leg);"),
    mutant("a-conflict-is-a-lost-leg", "R16", Tests, TRANSITIONS, "(_, Fact::Conflict(leg)) if member(leg) => self.supersede(),", "(_, Fact::Conflict(leg)) if member(leg) => self.lose(leg, LostWhy::NotRegistered),"),
    mutant("marks-are-not-asked", "R17", Tests, MARK, "of_marks.or_else(of_superblocks)", "of_marks.filter(|_| false).or_else(of_superblocks)"),
    mutant("marks-are-not-asked-without-the-register", "R17", Tests, CHOOSE, "if view == RegView::Unreadable && self.is_below_a_mark() {", "if view == RegView::Unreadable && self.is_below_a_mark() && self.rounds > 99 {"),
    mutant("copy-before-the-target-superblock", "R18", Tests, REJOIN, "let steps = self.target_steps(x, y, delta);", "let _ = self.target_steps(x, y, delta);\n        let steps = Vec::new();"),
    mutant("a-leg-that-lags-stays", "R19", Tests, DECIDE, "Some(lagging) => run(Row::L3b, Members::only(lagging.other()), Change::Shrink),", "Some(_) => run(Row::L3, usable, Change::Keep),"),
    mutant("growing-is-undone-without-a-bump-at-attach", "R20", Both, DECIDE, "run(Row::L9, usable, Change::Bump)", "run(Row::L9, usable, Change::Keep)"),
    mutant("growing-is-undone-without-a-bump", "R20", Tests, TRANSITIONS, "(GrowWait, Fact::Lost(leg, _)) if !member(leg) => self.bump(),", "(GrowWait, Fact::Lost(leg, _)) if !member(leg) => self.ungrow(RejoinBlock::LegLost),"),
    mutant("switch-after-the-check", "R21", Both, STATE, "State::RjNeed | State::Growing | State::GrowWait | State::BumpWait => both,", "State::RjNeed | State::Growing | State::GrowWait | State::BumpWait => solo,"),
    mutant("a-leg-that-the-register-does-not-name-counts", "R22", Tests, VIEW, "        } else if !self.members.contains(leg) {\n            Fit::Stale", "        } else if !self.members.contains(leg) {\n            Fit::Usable"),
    mutant("anybodys-register-is-expected", "R23", Tests, OUTCOME, "if self.holder != Some(running.key) {", "if self.holder.is_none() {"),
    mutant("thaw-without-stamp", "R24", Both, FROZEN, "        if self.lost(y).is_none() && self.ready(y) {\n            self.want(Ask::Thaw);", "        if self.lost(y).is_none() && self.ready(y) {\n            self.requests.open.clear();\n            self.enter(State::Frozen);\n            self.thaw();"),
    mutant("a-transaction-id-is-used-twice", "R25", Tests, TRANSITION, "if txid == self.txid || txid.is_zero() {", "if txid.is_zero() {"),
    mutant("a-fence-is-not-verified-between-two-reads", "R26", Tests, CHOOSE, "now.is_some() && now != self.stamp_before", "now.is_some() && now != self.stamp_before && now.is_none()"),
    mutant("any-beat-shows-that-somebody-waited", "R26", Tests, LEASE, ".any(|beat| beat.epoch == evidence.epoch)", ".any(|beat| beat.epoch <= evidence.epoch)"),
    mutant("lease-from-the-answer", "R27", Tests, COMMANDS, "self.lease.proved(leg, sent);", "self.lease.proved(leg, sent.max(self.now));"),
    mutant("the-other-sites-leg-is-fenced", "R28", Tests, DECIDE, "RegView::Unreadable if !mv.is_none() || held_by_other =>", "RegView::Unreadable if !mv.is_none() || (held_by_other && reachable.is_empty()) =>"),
    mutant("a-restarted-leg-is-a-source", "R29", Tests, EQUALISE, "        [true, false] => Leg::B,\n        [false, true] => Leg::A,\n", ""),
    mutant("detach-clears-the-reservation", "R30", Tests, ORDERS, "        for leg in Leg::BOTH {\n            self.out.push(Output::Disconnect { leg });", "        for leg in Leg::BOTH {\n            let key = self.running.key;\n            self.out.attach_command(leg, crate::io::LegOp::PrClear { key }, crate::io::Lane::Meta);\n            self.out.push(Output::Disconnect { leg });"),
    mutant("a-session-without-its-registration-goes-on", "R31", Tests, FENCE, "only_own(own, registrants) && sessions.iter().all(registered)", "only_own(own, registrants)"),
    mutant("one-slot-at-a-change", "R32", Tests, SUPERBLOCK, "            if slots == Slots::Both {\n                sb.sb_seq += 1;\n                second", "            if slots == Slots::Both && leg == Leg::B && leg == Leg::A {\n                sb.sb_seq += 1;\n                second"),
    mutant("a-later-leg-is-born-a-member", "R34", Tests, BIRTH, "role: Role::New,", "role: Role::Member,"),
    mutant("format-on-one-leg", "R34", Tests, ORDERS, "self.superblock_steps(Members::BOTH, Slots::Both, \"format\"", "self.superblock_steps(Members::only(self.local), Slots::Both, \"format\""),
    mutant("union-without-the-other-map", "R35", Both, REJOIN, "todo.insert(first + slot as u32);", "let _ = (first, slot);"),
    mutant("writes-beside-the-union-are-not-copied", "R35", Both, REJOIN, "                todo.insert(region);\n                true", "                let _ = (todo, region);\n                true"),
    mutant("copy-beside-writes", "R36", Both, COPY, "                copy.stage = Stage::Write;\n", "                copy.stage = Stage::Write;\n                if let Some(held) = copy.held.take() {\n                    self.unlock(held);\n                }\n"),
    mutant("decide-by-the-register-of-before-the-fence", "R37", Tests, ATTACH, "                let ask = self.ask(now, port);\n                self.phase = Phase::ReadRegister(ask);", "                return self.choose(now, port);"),
    mutant("any-order-attaches", "R38", Tests, ORDER, "highest.uid == uid || record.n.is_none_or(|n| highest.n < n)", "highest.uid == uid || record.n.is_none_or(|n| highest.n < n) || true"),
    mutant("any-device-goes-on", "R38", Tests, ORDER, "        .all(|sb| sb.attach_key.is_some_and(known))", "        .all(|sb| sb.attach_key.is_none_or(known) || true)"),
    mutant("flush-beside-pending-regions", "R39", Tests, DURABLE, "if self.flushes.is_empty() || !self.policy.answer || !self.pending.is_empty() {", "if self.flushes.is_empty() || !self.policy.answer {"),
    mutant("shrink-to-a-leg-that-is-no-source", "R39", Tests, FROZEN, "let may = !self.only_the_source() || x == self.sources.leg;", "let may = !self.only_the_source() || x == x;"),
    mutant("boot-id-before-the-last-pending-region", "R39", Tests, SETTLE, "        Some(_) | None => old.boot_id,", "        Some(_) | None => info.boot_id.unwrap_or(0),"),
    mutant("an-attach-takes-the-old-boot-id-away", "R40", Tests, FINISH, "            keep_boot: volume.restarted && (volume.continuing || self.patient),", "            keep_boot: false,"),
    mutant("no-flush-fails", "R40", Both, DURABLE, "let fail = std::mem::take(&mut self.flush_fail);", "let fail = std::mem::take(&mut self.flush_fail) && false;"),
    mutant("restarted-leg-keeps-its-answers", "R40", Both, LINK, "            self.leg_forgot(leg);\n", ""),
    mutant("boot-id-before-the-record", "R40", Both, DURABLE, "!self.flush_failure_owed() || (self.order", "true || (self.order"),
    mutant("outcome-by-txid", "R41", Both, OUTCOME, "if shows(expected, proposed, read) {", "if read.txid == proposed.txid {"),
    mutant("edit-means-lost", "R41", Both, OUTCOME, "if read.same_but_free(expected) {", "if read.same_but_free(expected) && false {"),
    mutant("pages-are-not-made-equal", "R42", Both, EQUALISE, "            writes.push(page.page);\n", ""),
    mutant("beats-before-the-last-pending-region", "R42", Tests, TAKE_OVER, "if self.pending.is_empty() && equal.rolled_back.is_none() {", "if equal.rolled_back.is_none() {"),
    mutant("below-is-asked-last", "R43", Tests, MARK, "    if let Some(below) = below(register, marks, superblocks) {", "    if register.state == State::Live\n        && let Some(below) = below(register, marks, superblocks)\n    {"),
    mutant("behind-the-fence-nothing-is-read-again", "R43", Tests, ONESHOT, "        if !self.is_as_judged(read.as_deref()) {\n", "        if !self.is_as_judged(read.as_deref()) && self.end.is_some() {\n"),
    mutant("a-grant-is-not-asked", "R44", Tests, VIEW, "} else if sb.granted || self.is_usable(leg, sb) {", "} else if self.is_usable(leg, sb) {"),
    mutant("copies-of-two-moments-are-forced", "R44", Tests, GROUP, "if own.1.is_none() || own.1 != moment {", "if own.1.is_none() && own.1 != moment {"),
    mutant("a-volume-is-written-before-the-others-are-judged", "R44", Tests, GROUP, "if !self.members.iter().all(rests) {", "if !self.members.iter().any(rests) {"),
    mutant("a-candidate-has-what-its-source-has", "R44", Tests, MOMENT, "(Role::New | Role::Target, _) | (Role::Candidate, None) => return None,", "(Role::Candidate, _) => return Some(own),\n        (Role::New | Role::Target, _) => return None,"),
    mutant("a-named-leg-runs-by-its-own-word", "R44", Tests, DECIDE, "if volumes.iter().flatten().any(named) {", "if volumes.iter().flatten().any(named) && volumes.is_empty() {"),
    mutant("who-is-registered-renews-the-lease", "R27", Both, COMMANDS, "if needs_registration(purpose) {", "if needs_registration(purpose) || sent <= self.now {"),
    mutant("an-expansion-adds-what-is-there", "2.17", Both, ORDERS, "            next: self.geometry.size(),\n", "            next: end,\n"),
    mutant("a-leg-that-was-put-back-says-the-size", "2.9", Tests, TAKE_OVER, "if whole.size() > self.geometry.size() {", "if whole.size() < self.geometry.size() {"),
    mutant("an-expansion-cut-short-says-the-new-size", "2.17", Tests, ORDERS, "&& std::mem::take(&mut self.orders.sizing)", "&& std::mem::take(&mut self.orders.sizing)\n            && size == 0"),
    mutant("an-order-of-a-superseded-writer-has-no-answer", "2.5", Tests, TRANSITIONS, "        self.fail_format();\n        self.fail_orders(ControlError::Interrupted);\n        for leg in Leg::BOTH {", "        self.fail_format();\n        for leg in Leg::BOTH {"),
    mutant("an-error-answer-ends-a-write", "R45", Tests, AGAIN, "run.for_each(|region| self.must_reconcile(region, self.local));", "let _ = run;"),
    mutant("alarm-at-three", "2.9", Tests, EQUALISE, "if a.abs_diff(b) >= 2 && legs", "if a.abs_diff(b) >= 3 && legs"),
    mutant("a-gap-of-pages-is-no-alarm", "2.9", Tests, EQUALISE, "a.number.abs_diff(b.number) >= 2 &&", "a.number.abs_diff(b.number) >= 9 &&"),
    mutant("one-below-the-beat-object-is-fresh", "2.8", Tests, VIEW, "&& block.beat.saturating_add(slack) < object.beat =>", "&& block.beat.saturating_add(slack + 1) < object.beat =>"),
    mutant("a-beat-of-an-earlier-epoch-is-fresh", "2.8", Tests, VIEW, "&& block.epoch <= object.epoch\n", "&& block.epoch == object.epoch\n"),
    mutant("the-whole-run-from-the-other-leg", "2.9", Tests, COPY, "} else if copy.narrow(region) {", "} else if copy.narrow(region) && copy.dead {"),
    mutant("two-lost-legs-stay-frozen", "2.5", Tests, FROZEN, "left.sole().or_else(|| self.least_lost())", "left.sole().or_else(|| self.least_lost().filter(|_| false))"),
];
