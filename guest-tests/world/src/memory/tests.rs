use super::*;

fn read(memory: &Memory, address: u64, length: usize) -> Result<Vec<u8>, AccessError> {
    let mut data = alloc::vec![0; length];
    memory.read(address, &mut data).map(|()| data)
}

#[test]
fn the_device_reaches_memory_and_nothing_else() {
    let memory = Memory::default();
    let last = MEMORY_SIZE - 2;
    assert_eq!(memory.write(last, b"ab"), Ok(()));
    assert_eq!(read(&memory, last, 2).as_deref(), Ok(&b"ab"[..]));
    assert_eq!(read(&memory, last + 1, 2), Err(AccessError::Unmapped));
    assert_eq!(read(&memory, u64::MAX, 2), Err(AccessError::TooLong));
    assert_eq!(read(&memory, 0, (1 << 20) + 1), Err(AccessError::TooLong));
}

#[test]
fn memory_that_is_taken_away_is_gone_for_the_device_only() {
    let mut memory = Memory::default();
    memory.revoke(100, 10);
    assert!(read(&memory, 90, 10).is_ok());
    assert_eq!(read(&memory, 90, 11), Err(AccessError::Unmapped));
    assert!(read(&memory, 110, 1).is_ok());
    assert_eq!(memory.write(105, &[2]), Err(AccessError::Unmapped));
    assert_eq!(memory.poke(105, &[1]), Ok(()));
    let mut found = [0];
    assert_eq!(memory.peek(105, &mut found), Ok(()));
    memory.give_back();
    assert_eq!(read(&memory, 105, 1).as_deref(), Ok(&found[..]));
    assert_eq!(found, [1]);
}

#[test]
fn frames_are_gathered_and_scattered() {
    let mut memory = Memory::default();
    let segments = [(10, 2), (4, 3)].map(|(address, length)| Segment { address, length });
    assert!(memory.scatter(segments.iter(), b"abcd"));
    assert_eq!(
        read(&memory, 4, 8).as_deref(),
        Ok(&b"cd\0\0\0\0ab"[..]),
        "each segment in its turn"
    );
    let mut frame = b"before".to_vec();
    assert!(memory.gather(&segments, &mut frame));
    assert_eq!(frame, b"abcd\0");
    memory.revoke(6, 1);
    assert!(!memory.gather(&segments, &mut frame));
    assert!(!memory.scatter(segments.iter(), b"x"));
    memory.give_back();
    assert_eq!(read(&memory, 10, 1).as_deref(), Ok(&b"a"[..]));
}

#[test]
fn windows_show_zeros_while_memory_is_gone() {
    let mut memory = Memory::default();
    let window = memory.map_window(&[0x3000, 0x1000], 2).expect("a window");
    assert_eq!(memory.poke(0x1000, &[7; 8]), Ok(()));
    let word = |offset| {
        let mut word = [0];
        assert!(
            window
                .view(offset, 8)
                .expect("in the window")
                .copy_to(&mut word)
        );
        word[0]
    };
    let seven = u64::from_le_bytes([7; 8]);
    assert_eq!((word(0x1000), word(0x3000)), (seven, seven));
    let base = window.base();
    assert_eq!(memory.revoke(0x1800, 1), [base]);
    assert_eq!((word(0x1000), word(0x3000)), (0, 0));
    assert_eq!(memory.revoke(0x3000, 1), [], "it is known to be gone");
    assert!(memory.map_window(&[0x1000], 1).is_none());
    assert_eq!(memory.give_back(), [base]);
    assert_eq!((word(0x1000), word(0x3000)), (seven, seven));
    memory.unmap_window(window);
    assert_eq!(memory.windows(), 0);
}
