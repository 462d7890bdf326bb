//! A table of things in flight, named by index and generation.
//!
//! A late answer for a slot that was given to something else meanwhile is told apart by the generation, so nothing
//! completes twice or with another's buffer (I11). Slots are reused: a steady load allocates nothing.

/// Index and generation of an entry; as a number it never names two entries of one slab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Handle {
    pub(crate) index: u32,
    generation: u32,
}

impl Handle {
    pub(crate) const fn to_u64(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    pub(crate) const fn from_u64(raw: u64) -> Self {
        Self {
            index: (raw & 0xffff_ffff) as u32,
            generation: (raw >> 32) as u32,
        }
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// Generation of new slots: a slab that replaces another one begins above it.
    first_generation: u32,
}

impl<T> Slab<T> {
    pub(crate) const fn new(first_generation: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            first_generation,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn insert(&mut self, value: T) -> Handle {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return Handle {
                index,
                generation: slot.generation,
            };
        }
        let index = u32::try_from(self.slots.len()).expect("bounded by permits far below 2^32");
        self.slots.push(Slot {
            generation: self.first_generation,
            value: Some(value),
        });
        Handle {
            index,
            generation: self.first_generation,
        }
    }

    pub(crate) fn get(&self, at: Handle) -> Option<&T> {
        let slot = self.slots.get(at.index as usize)?;
        if slot.generation == at.generation {
            slot.value.as_ref()
        } else {
            None
        }
    }

    pub(crate) fn get_mut(&mut self, at: Handle) -> Option<&mut T> {
        let slot = self.slots.get_mut(at.index as usize)?;
        if slot.generation == at.generation {
            slot.value.as_mut()
        } else {
            None
        }
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    pub(crate) fn remove(&mut self, at: Handle) -> Option<T> {
        let slot = self.slots.get_mut(at.index as usize)?;
        if slot.generation != at.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(at.index);
        Some(value)
    }

    /// All entries, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let at = Handle {
                index: index as u32,
                generation: slot.generation,
            };
            slot.value.as_ref().map(|value| (at, value))
        })
    }

    /// The names of all entries, by slot: for passes that change the table.
    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.iter().map(|(at, _)| at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_names_nothing() {
        let mut slab = Slab::new(5);
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(second.index, first.index);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(Handle::from_u64(second.to_u64())), Some(&"second"));
        assert_eq!(slab.len(), 1);
    }
}
