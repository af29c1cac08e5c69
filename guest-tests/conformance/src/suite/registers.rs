//! BAR 0 as a driver first sees it.

use crate::driver::Driver;
use crate::failure::{Outcome, check_eq};

super::declare! { "registers":
    version_is_one = "gdma_main.c: mana_gd_init_registers",
}

fn version_is_one(driver: &mut Driver<'_>) -> Outcome {
    check_eq("major version", driver.bench.read_register(3, 1), 1)
}
