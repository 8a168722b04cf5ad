//! A model of one key while its namespace moves to another layout, and an exploration of all its schedules.
//!
//! A writer changes the database and invalidates the key in both layouts. Readers ask a layout, copy from the old one to
//! the new one, or load from the database. After the writer has ended, no layout may have or get the old value.

use std::collections::HashSet;

/// A layout, as far as it concerns the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Cell {
    Empty,
    /// The load lease of the reader with this number.
    Lease(usize),
    /// The version of the value.
    Value(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Layout {
    Old,
    New,
}

/// The next step of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reader {
    /// It asks the layout in which it reads.
    Ask(Layout),
    /// It has a lease in the new layout and asks the old one.
    Copy,
    /// It has a lease in this layout and reads the database.
    Load(Layout),
    /// It stores this version under its lease in this layout.
    Fill(Layout, u8),
    Done,
}

/// A step of the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Write {
    Database,
    Invalidate(Layout),
    /// A call that does not reach the layout, so that the invalidation is queued.
    Fail,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    database: u8,
    old: Cell,
    new: Cell,
    readers: [Reader; 3],
    /// The number of steps that the writer has made.
    written: usize,
}

impl State {
    fn cell(&mut self, layout: Layout) -> &mut Cell {
        match layout {
            Layout::Old => &mut self.old,
            Layout::New => &mut self.new,
        }
    }

    /// Makes the next step of a reader. Returns `None` if it has to wait for another one.
    fn read(mut self, number: usize) -> Option<Self> {
        let next = match self.readers[number] {
            Reader::Ask(layout) => {
                let cell = self.cell(layout);
                match *cell {
                    Cell::Value(_) => Reader::Done,
                    Cell::Lease(_) => return None,
                    Cell::Empty => {
                        *cell = Cell::Lease(number);
                        match layout {
                            Layout::Old => Reader::Load(layout),
                            Layout::New => Reader::Copy,
                        }
                    }
                }
            }
            Reader::Copy => match self.old {
                Cell::Value(version) => Reader::Fill(Layout::New, version),
                Cell::Empty | Cell::Lease(_) => Reader::Load(Layout::New),
            },
            Reader::Load(layout) => Reader::Fill(layout, self.database),
            Reader::Fill(layout, version) => {
                let cell = self.cell(layout);
                if *cell == Cell::Lease(number) {
                    *cell = Cell::Value(version);
                }
                Reader::Done
            }
            Reader::Done => return None,
        };
        self.readers[number] = next;
        Some(self)
    }

    fn write(mut self, step: Write) -> Self {
        self.written += 1;
        match step {
            Write::Database => self.database = 1,
            Write::Invalidate(layout) => *self.cell(layout) = Cell::Empty,
            Write::Fail => {}
        }
        self
    }
}

/// Explores all schedules. Returns a state in which the writer has ended and a layout has the old value.
fn outdated(steps: &[Write], old: Cell, readers: [Reader; 3]) -> Option<State> {
    let first = State {
        database: 0,
        old,
        new: Cell::Empty,
        readers,
        written: 0,
    };
    let (mut seen, mut open) = (HashSet::from([first.clone()]), vec![first]);
    while let Some(state) = open.pop() {
        let has_ended = state.written == steps.len();
        if has_ended && [state.old, state.new].contains(&Cell::Value(0)) {
            return Some(state);
        }
        let write = (!has_ended).then(|| state.clone().write(steps[state.written]));
        let reads = (0..readers.len()).filter_map(|number| state.clone().read(number));
        for next in write.into_iter().chain(reads) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    None
}

/// Checks the steps of a writer against all starts of the layouts and of the readers.
fn is_correct(steps: &[Write]) -> bool {
    let asks = [Reader::Ask(Layout::Old), Reader::Ask(Layout::New)];
    let starts = [Cell::Empty, Cell::Value(0)];
    starts.into_iter().all(|old| {
        (0..8).all(|bits| {
            let readers = [0, 1, 2].map(|reader| asks[bits >> reader & 1]);
            outdated(steps, old, readers).is_none()
        })
    })
}

#[test]
fn copied_value_is_never_outdated() {
    use Layout::{New, Old};
    use Write::{Database, Fail, Invalidate};
    assert!(is_correct(&[Database, Invalidate(Old), Invalidate(New)]));
    // A failed call is repeated from the queue, and the new layout is invalidated again after that.
    let queued = [Invalidate(Old), Invalidate(New)];
    assert!(is_correct(
        &[&[Database, Fail, Invalidate(New)], &queued[..]].concat()
    ));
    assert!(is_correct(&[
        Database,
        Invalidate(Old),
        Fail,
        Invalidate(New)
    ]));
    assert!(is_correct(&[&[Database, Fail, Fail], &queued[..]].concat()));
}

#[test]
fn another_order_of_invalidations_is_found_to_be_wrong() {
    use Layout::{New, Old};
    use Write::{Database, Fail, Invalidate};
    assert!(!is_correct(&[Database, Invalidate(New), Invalidate(Old)]));
    assert!(!is_correct(&[
        Database,
        Fail,
        Invalidate(New),
        Invalidate(Old)
    ]));
    assert!(!is_correct(&[Database, Invalidate(New)]));
}
