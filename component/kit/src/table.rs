//! Values by id: small numbers from 1 on, the lowest free one first.
//!
//! Which id comes next depends only on which are taken, so that a device
//! whose state was saved and restored continues with the same ids.

use alloc::vec::Vec;

/// A table.
#[derive(Debug)]
pub struct Table<T> {
    /// The slot of id n is n - 1.
    slots: Vec<Option<T>>,
    length: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            length: 0,
        }
    }
}

fn slot(id: u32) -> usize {
    (id as usize).wrapping_sub(1)
}

impl<T> Table<T> {
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the value with this id.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&T> {
        self.slots.get(slot(id))?.as_ref()
    }

    /// Returns the value with this id, mutable.
    #[inline]
    pub fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slots.get_mut(slot(id))?.as_mut()
    }

    /// Adds a value and returns its id.
    pub fn insert(&mut self, value: T) -> u32 {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        if free.is_none() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(value);
        self.length += 1;
        slot as u32 + 1
    }

    /// Adds a value under a free id.
    ///
    /// # Panics
    ///
    /// If the id is taken, or is 0.
    pub fn insert_at(&mut self, id: u32, value: T) {
        let needed = self.slots.len().max(id as usize);
        self.slots.resize_with(needed, || None);
        let slot = &mut self.slots[slot(id)];
        assert!(slot.is_none(), "id {id} is taken");
        *slot = Some(value);
        self.length += 1;
    }

    /// Removes a value and returns it.
    pub fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.slots.get_mut(slot(id))?.take()?;
        self.length -= 1;
        Some(value)
    }

    /// Removes all values.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.length = 0;
        core::mem::take(&mut self.slots).into_iter().flatten()
    }

    /// Visits each value with its id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let slots = self.slots.iter().zip(1..);
        slots.filter_map(|(value, id)| Some((id, value.as_ref()?)))
    }

    /// Visits each value with its id, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let slots = self.slots.iter_mut().zip(1..);
        slots.filter_map(|(value, id)| Some((id, value.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn the_lowest_free_id_comes_next_whatever_came_before() {
        let mut table = Table::default();
        let ids: Vec<u32> = (0..4).map(|n| table.insert(n)).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
        table.remove(1);
        table.remove(3);
        table.remove(3);
        assert_eq!((table.len(), table.insert(10), table.insert(11)), (2, 1, 3));
        assert_eq!(table.insert(12), 5);
    }

    #[test]
    fn values_return_under_their_ids() {
        let mut table = Table::default();
        table.insert_at(3, 'c');
        let all: Vec<_> = table.iter().collect();
        assert_eq!(all, vec![(3, &'c')]);
        assert_eq!(
            (table.insert('a'), table.get(2), table.get(0)),
            (1, None, None)
        );
    }
}
