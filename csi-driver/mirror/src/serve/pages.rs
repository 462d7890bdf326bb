//! Page transactions of the dirty map on their way to the legs.

use twinsite_register::Leg;

use super::Serve;
use super::commands::Purpose;

impl Serve {
    /// Send the page transactions that may start.
    pub(super) fn start_pages(&mut self) {
        if self.state.is_over() {
            return;
        }
        while let Some(start) = self.map.start() {
            self.counters.page_transactions += 1;
            for leg in start.legs.iter() {
                if self.ready(leg) {
                    self.send(leg, Purpose::Page(start.page));
                }
            }
        }
    }

    pub(super) fn page_durable(&mut self, page: u32, leg: Leg) {
        let mut opened = std::mem::take(&mut self.opened);
        self.map.durable(page, leg, &mut opened);
        self.opened = opened;
        self.open_gates();
        self.start_pages();
        self.union_progress();
        if self.scripts.running() {
            self.run_script();
        }
    }

    /// Tell the writes at the gates that opened.
    pub(super) fn open_gates(&mut self) {
        let mut opened = std::mem::take(&mut self.opened);
        for at in opened.gate1.drain(..) {
            self.gate1(at);
        }
        for at in opened.gate2.drain(..) {
            self.gate2(at);
        }
        // Nothing opens a gate from within: the buffers go back for reuse.
        self.opened = opened;
    }

    pub(super) fn resend_pages(&mut self, leg: Leg) {
        for page in self.map.pages_in_flight() {
            if self.map.waits_for(page).contains(leg) && !self.cmds.has(leg, Purpose::Page(page)) {
                self.send(leg, Purpose::Page(page));
            }
        }
    }

    /// A write went to a region that was not dirty: mark the next ones of a sequential stream with it.
    pub(super) fn cold(&mut self, region: u32) {
        let sequential = self.last_cold.checked_add(1) == Some(region);
        self.last_cold = region;
        if sequential {
            let end = (region + 1 + self.config.predirty).min(self.geometry.regions() as u32);
            self.map.mark_dirty(region + 1..end);
        }
    }
}
