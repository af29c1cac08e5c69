//! Things by id: small numbers from 1 on, the lowest free one first.
//!
//! Which id comes next depends only on which are taken, so that a device
//! whose state was saved and restored goes on with the same ids.

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
    /// Number of things.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The thing with this id.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&T> {
        self.slots.get(slot(id))?.as_ref()
    }

    /// The thing with this id, to change.
    #[inline]
    pub fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slots.get_mut(slot(id))?.as_mut()
    }

    /// Adds a thing and returns its id.
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

    /// Adds a thing under an id that is free and at most `max`.
    ///
    /// # Errors
    ///
    /// The thing, if its id is not.
    pub fn insert_at(&mut self, id: u32, max: usize, value: T) -> Result<(), T> {
        if slot(id) >= max || self.get(id).is_some() {
            return Err(value);
        }
        let needed = self.slots.len().max(id as usize);
        self.slots.resize_with(needed, || None);
        self.slots[slot(id)] = Some(value);
        self.length += 1;
        Ok(())
    }

    /// Takes a thing out.
    pub fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.slots.get_mut(slot(id))?.take()?;
        self.length -= 1;
        Some(value)
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.length = 0;
        core::mem::take(&mut self.slots).into_iter().flatten()
    }

    /// Everything with its id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let slots = self.slots.iter().zip(1..);
        slots.filter_map(|(value, id)| Some((id, value.as_ref()?)))
    }

    /// Everything with its id, to change.
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
    fn a_taken_or_impossible_id_is_refused() {
        let mut table = Table::default();
        assert_eq!(table.insert_at(3, 4, 'c'), Ok(()));
        assert_eq!(table.insert_at(3, 4, 'x'), Err('x'));
        assert_eq!(table.insert_at(0, 4, 'x'), Err('x'));
        assert_eq!(table.insert_at(5, 4, 'x'), Err('x'));
        let all: Vec<_> = table.iter().collect();
        assert_eq!(all, vec![(3, &'c')]);
        assert_eq!(
            (table.insert('a'), table.get(2), table.get(0)),
            (1, None, None)
        );
    }
}
