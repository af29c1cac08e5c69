//! Regions against a model that searches all of them linearly.

use super::*;

/// The number of pages in which regions are mapped.
const PAGES: u64 = 96;

#[derive(Clone, Debug)]
enum Step {
    /// Page, pages, which file, page of the file, writable.
    Map(u64, u64, usize, u64, bool),
    Unreachable(u64, u64),
    Unmap(u64, u64),
    Clear,
    /// Continues with a clone, and keeps the original until the end.
    Clone,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..PAGES, 1u64..5, 0usize..3, 0u64..8, any::<bool>())
            .prop_map(|(at, count, file, page, writable)| Step::Map(at, count, file, page, writable)),
        2 => (0..PAGES, 1u64..4).prop_map(|(at, count)| Step::Unreachable(at, count)),
        6 => (0..PAGES, 1u64..12).prop_map(|(at, count)| Step::Unmap(at, count)),
        1 => Just(Step::Clear),
        1 => Just(Step::Clone),
    ];
    prop::collection::vec(step, 1..150)
}

/// A region of the model: its pages, their place in a file, and whether they are writable.
#[derive(Clone, Debug)]
struct Known {
    pages: Range<u64>,
    at: Option<(usize, u64)>,
    writable: bool,
}

/// Creates files each of whose pages contains an identifying mark.
fn files() -> Vec<File> {
    let files = (0..3).map(|file| {
        let memfd = memfd(12 * PAGE_SIZE);
        for page in 0..12 {
            let mark = (file * 100 + page + 1u64).to_le_bytes();
            std::os::unix::fs::FileExt::write_all_at(&memfd, &mark, page * PAGE_SIZE).unwrap();
        }
        memfd
    });
    files.collect()
}

#[derive(Debug, Default)]
struct Model(Vec<Known>);

impl Model {
    fn overlaps(&self, pages: &Range<u64>) -> bool {
        let meets = |known: &Known| known.pages.start < pages.end && pages.start < known.pages.end;
        self.0.iter().any(meets)
    }

    /// Returns whether anything changes.
    fn unmap(&mut self, pages: &Range<u64>) -> bool {
        let inside =
            |known: &Known| pages.start <= known.pages.start && known.pages.end <= pages.end;
        let meets = |known: &Known| known.pages.start < pages.end && pages.start < known.pages.end;
        let ok = self.0.iter().any(meets) && self.0.iter().filter(|k| meets(k)).all(inside);
        if ok {
            self.0.retain(|known| !inside(known));
        }
        ok
    }

    fn known(&self, page: u64) -> Option<&Known> {
        self.0.iter().find(|known| known.pages.contains(&page))
    }

    fn check(&self, memory: &GuestMemory) {
        assert_eq!(memory.regions().len(), self.0.len());
        for page in 0..PAGES + 8 {
            let at = page * PAGE_SIZE;
            let known = self.known(page);
            let source = known.and_then(|known| {
                let (file, first) = known.at?;
                Some((file, first + page - known.pages.start))
            });
            let mark = source.map(|(file, page)| file as u64 * 100 + page + 1);
            assert_eq!(memory.load(at), mark, "page {page}");
            let writable = known.is_some_and(|known| known.writable && known.at.is_some());
            let last = at + PAGE_SIZE - 1;
            assert_eq!(memory.check(last, 1, Access::Write).is_ok(), writable);
            assert_eq!(memory.page(at).is_ok(), writable);
            // Across the end of the page.
            let next = self.known(page + 1).is_some_and(|known| known.at.is_some());
            let both = mark.is_some() && next;
            assert_eq!(memory.check(last, 2, Access::Read).is_ok(), both);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn regions_are_as_in_a_model(crowded in any::<bool>(), steps in steps()) {
        let files = files();
        let mut memory = GuestMemory::new();
        let mut model = Model::default();
        // Additional regions elsewhere, so that more exist than are searched one by one.
        for page in (0..FEW as u64 - 4).filter(|_| crowded).map(|index| 1000 + index) {
            memory.map_unreachable(page * PAGE_SIZE, PAGE_SIZE).unwrap();
            model.0.push(Known { pages: page..page + 1, at: None, writable: false });
        }
        let mut kept = Vec::new();
        for step in steps {
            match step {
                Step::Map(at, count, file, page, writable) => {
                    let pages = at..at + count;
                    let shared = files[file].try_clone().unwrap();
                    let (start, size) = (at * PAGE_SIZE, count * PAGE_SIZE);
                    let mapped = memory.map(start, size, shared, page * PAGE_SIZE, writable);
                    let fits = !model.overlaps(&pages);
                    prop_assert_eq!(mapped.is_ok(), fits);
                    if fits {
                        model.0.push(Known { pages, at: Some((file, page)), writable });
                    }
                }
                Step::Unreachable(at, count) => {
                    let pages = at..at + count;
                    let mapped = memory.map_unreachable(at * PAGE_SIZE, count * PAGE_SIZE);
                    let fits = !model.overlaps(&pages);
                    prop_assert_eq!(mapped.is_ok(), fits);
                    if fits {
                        model.0.push(Known { pages, at: None, writable: false });
                    }
                }
                Step::Unmap(at, count) => {
                    let gone = memory.unmap(at * PAGE_SIZE, count * PAGE_SIZE);
                    prop_assert_eq!(gone.is_ok(), model.unmap(&(at..at + count)));
                }
                Step::Clear => {
                    memory.clear();
                    model.0.clear();
                }
                Step::Clone => {
                    let copy = memory.clone();
                    kept.push((std::mem::replace(&mut memory, copy), model.0.clone()));
                }
            }
            model.check(&memory);
        }
        for (memory, known) in kept {
            Model(known).check(&memory);
        }
    }
}
