//! A fixed number of values that are cheap to clone together and to change one by one.

use std::{array, sync::Arc};

/// Groups, and values in each.
const WIDTH: usize = 64;

/// How many values there are.
pub const COUNT: usize = WIDTH * WIDTH;

/// [`COUNT`] values in two levels. A clone shares them all; a change of one copies the references to the groups and the
/// values of its group, twice [`WIDTH`] in all. With 100,000 services in the values, as many lie in one as there are
/// references in a group or two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shards<T>(Arc<[Group<T>; WIDTH]>);

type Group<T> = Arc<[T; WIDTH]>;

impl<T: Clone + Default> Default for Shards<T> {
    fn default() -> Self {
        let value = T::default();
        let group = Arc::new(array::from_fn(|_| value.clone()));
        Shards(Arc::new(array::from_fn(|_| group.clone())))
    }
}

impl<T> Shards<T> {
    /// One value.
    ///
    /// # Panics
    /// If `at` is not below [`COUNT`].
    #[inline(always)]
    pub fn get(&self, at: usize) -> &T {
        &self.0[at / WIDTH][at % WIDTH]
    }

    /// One value, to change. It and its group are not shared with clones any more.
    pub fn get_mut(&mut self, at: usize) -> &mut T
    where
        T: Clone,
    {
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.0)[at / WIDTH])[at % WIDTH]
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|group| group.iter())
    }

    /// Pairs of this one's values and those of `other` in their places, where they may differ: all but those of groups that
    /// both share.
    pub fn with_other_groups<'a>(&'a self, other: &'a Shards<T>) -> impl Iterator<Item = (&'a T, &'a T)> {
        let groups = self.0.iter().zip(&*other.0).filter(|(mine, theirs)| !Arc::ptr_eq(mine, theirs));
        groups.flat_map(|(mine, theirs)| mine.iter().zip(theirs.iter()))
    }

    /// What `make` makes of every value, and of that in its place in `before.0`, of which `before.1` was made. Groups that
    /// are those of `before.0` are not looked at: what was made of them is shared.
    pub fn map<M>(
        &self,
        before: Option<(&Shards<T>, &Shards<M>)>,
        mut make: impl FnMut(&T, Option<(&T, &M)>) -> M,
    ) -> Shards<M> {
        let mut group = |at: usize| {
            let (mine, before) = (&self.0[at], before.map(|(values, made)| (&values.0[at], &made.0[at])));
            match before {
                Some((values, made)) if Arc::ptr_eq(mine, values) => made.clone(),
                _ => Arc::new(array::from_fn(|i| make(&mine[i], before.map(|(values, made)| (&values[i], &made[i]))))),
            }
        };
        Shards(Arc::new(array::from_fn(&mut group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_in_its_place_only_and_not_by_clones() {
        let before = Shards::<u32>::default();
        let mut after = before.clone();
        *after.get_mut(4000) = 7;
        assert_eq!((*before.get(4000), *after.get(4000)), (0, 7));
        assert_eq!(after.iter().sum::<u32>(), 7);
        assert_eq!(after.with_other_groups(&before).count(), WIDTH);
        assert_eq!(before.with_other_groups(&before.clone()).count(), 0);
        assert_ne!(before, after);
        *after.get_mut(4000) = 0;
        assert_eq!(before, after);
    }

    #[test]
    fn only_groups_that_differ_are_made_again() {
        let before = Shards::<u32>::default();
        let made = before.map(None, |value, _| value + 1);
        let mut after = before.clone();
        *after.get_mut(70) = 5;
        let mut looked_at = 0;
        let again = after.map(Some((&before, &made)), |value, known| {
            looked_at += 1;
            assert_eq!(known, Some((&0, &1)));
            value + 1
        });
        assert_eq!((looked_at, *again.get(70), *again.get(0)), (WIDTH, 6, 1));
    }
}
