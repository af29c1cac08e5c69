//! The shared-memory aperture against 32 bytes.

use crate::adapter::smc::Smc;
use proptest::prelude::*;

#[test]
fn the_aperture_is_32_bytes_whose_last_hands_over() {
    let width = prop_oneof![Just(1usize), Just(2), Just(4), Just(8)];
    let writes = prop::collection::vec((0usize..32, width, any::<u64>()), 1..60);
    super::check(512, writes, |writes| {
        let mut smc = Smc::default();
        let mut model = [0u8; 32];
        for (offset, width, value) in writes {
            for (index, byte) in value.to_le_bytes()[..width].iter().enumerate() {
                if let Some(place) = model.get_mut(offset + index) {
                    *place = *byte;
                }
            }
            let handed = smc.write(offset, width, value);
            prop_assert_eq!(handed.is_some(), offset + width >= 32);
            prop_assert_eq!(smc.bytes(), &model);
            if let Some(header) = handed {
                prop_assert_eq!(&header.into_bits().to_le_bytes()[..], &model[28..]);
            }
            for at in 0..32 {
                let mut expected = [0; 8];
                for (to, from) in expected.iter_mut().zip(&model[at..]).take(width) {
                    *to = *from;
                }
                prop_assert_eq!(smc.read(at, width), u64::from_le_bytes(expected));
            }
        }
        Ok(())
    });
}
