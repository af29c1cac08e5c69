//! DMA regions.

use alloc::vec;
use alloc::vec::Vec;

use mana_wire::gdma::{CreateDmaRegionReq, DmaRegionHandle, Status, code};
use mana_wire::queue::QueueType;
use zerocopy::IntoBytes;

use crate::bench::MEMORY_SIZE;
use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::requests::{
    PAGES_PER_MESSAGE, add_pages, create_queue, create_region, destroy_region,
};
use crate::failure::{Outcome, check, check_eq};

super::declare! { "regions":
    are_created_and_destroyed = "gdma_main.c: mana_gd_create_dma_region, mana_gd_destroy_dma_region",
    have_handles_that_are_not_zero = "gdma.h: GDMA_INVALID_DMA_REGION",
    have_handles_of_their_own = "gdma_main.c: mana_gd_create_dma_region",
    a_handle_is_not_used_again = "gdma_main.c: mana_gd_destroy_dma_region",
    unknown_ones_cannot_be_destroyed = "gdma_main.c: mana_gd_destroy_dma_region",
    destroying_needs_its_body = "gdma.h: struct gdma_destroy_dma_region_req",
    may_begin_inside_a_page = "gdma.h: struct gdma_create_dma_region_req, offset_in_page",
    may_end_inside_a_page = "gdma.h: struct gdma_create_dma_region_req, length",
    are_not_empty = "gdma.h: struct gdma_create_dma_region_req, length",
    have_as_many_pages_as_their_length_takes = "gdma.h: struct gdma_create_dma_region_req, page_count",
    have_lengths_that_do_not_overflow = "gdma.h: struct gdma_create_dma_region_req, length",
    begin_inside_their_first_page = "gdma.h: struct gdma_create_dma_region_req, offset_in_page",
    are_of_4k_pages = "gdma.h: GDMA_PAGE_TYPE_4K",
    refuse_unaligned_pages = "hostile guest: bad input, unaligned DMA pages",
    refuse_repeated_pages = "hostile guest: bad input, repeated DMA pages",
    refuse_pages_outside_memory = "hostile guest: bad input, unmapped DMA pages",
    refuse_a_list_longer_than_the_message = "gdma.h: struct gdma_create_dma_region_req, page_addr_list_len",
    refuse_a_list_longer_than_the_region = "gdma.h: struct gdma_create_dma_region_req, page_addr_list_len",
    refuse_an_empty_list = "gdma.h: struct gdma_create_dma_region_req, page_addr_list_len",
    need_room_for_their_handle = "gdma.h: struct gdma_create_dma_region_resp",
    may_be_larger_than_a_message = "gdma.h: GDMA_STATUS_MORE_ENTRIES, struct gdma_dma_region_add_pages_req",
    take_pages_one_by_one = "gdma.h: struct gdma_dma_region_add_pages_req",
    a_large_one_makes_a_queue = "gdma_main.c: mana_gd_create_dma_region, mana_gd_create_mana_wq_cq",
    incomplete_ones_make_no_queue = "gdma.h: GDMA_STATUS_MORE_ENTRIES",
    incomplete_ones_can_be_destroyed = "gdma_main.c: mana_gd_destroy_dma_region",
    refuse_pages_beyond_their_end = "gdma.h: struct gdma_dma_region_add_pages_req",
    refuse_bad_pages_later_too = "gdma.h: struct gdma_dma_region_add_pages_req",
    unknown_ones_take_no_pages = "gdma.h: struct gdma_dma_region_add_pages_req",
    added_lists_lie_inside_the_message = "gdma.h: struct gdma_dma_region_add_pages_req",
    have_a_largest_size = "reference: limits",
    run_out_and_come_back = "reference: limits",
    pages_run_out_and_come_back = "reference: limits",
    belong_to_the_queue_made_of_them = "gdma_main.c: mana_gd_create_hw_eq, GDMA_INVALID_DMA_REGION",
}

fn are_created_and_destroyed(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(3)?;
    let handle = driver.region(&pages)?;
    driver.succeed(&destroy_region(handle)).map(|_| ())
}

fn have_handles_that_are_not_zero(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(1)?;
    for _ in 0..10 {
        let handle = driver.region(&pages)?;
        check(handle != 0, "a region's handle is GDMA_INVALID_DMA_REGION")?;
    }
    Ok(())
}

fn have_handles_of_their_own(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(1)?;
    let mut handles = Vec::new();
    for _ in 0..20 {
        handles.push(driver.region(&pages)?);
    }
    handles.sort_unstable();
    handles.dedup();
    check_eq("different handles", handles.len(), 20)
}

fn a_handle_is_not_used_again(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(1)?;
    let stale = driver.region(&pages)?;
    driver.succeed(&destroy_region(stale))?;
    let fresh = driver.region(&pages)?;
    driver.refuse(&destroy_region(stale), Status::InvalidHandle)?;
    driver.succeed(&destroy_region(fresh)).map(|_| ())
}

fn unknown_ones_cannot_be_destroyed(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(1)?;
    let handle = driver.region(&pages)?;
    for unknown in [0, 1, handle + 1, handle ^ 1 << 40, u64::MAX] {
        driver.refuse(&destroy_region(unknown), Status::InvalidHandle)?;
    }
    driver.succeed(&destroy_region(handle)).map(|_| ())
}

fn destroying_needs_its_body(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = Request::of_bytes(code::DESTROY_DMA_REGION, &[0; 7], 0);
    driver.refuse(&request, Status::TooShort)
}

/// Sends a corrupted request for a region of one valid page.
fn one_page(
    driver: &mut Driver<'_>,
    spoil: impl FnOnce(&mut CreateDmaRegionReq, &mut Vec<u64>),
) -> Outcome<Request> {
    driver.establish()?;
    let mut pages = driver.page_list(2)?;
    pages.pop();
    let mut body = CreateDmaRegionReq {
        length: 4096,
        offset_in_page: 0,
        gdma_page_type: 0,
        page_count: 1,
        page_addr_list_len: 1,
    };
    spoil(&mut body, &mut pages);
    let list = pages.iter().flat_map(|page| page.to_le_bytes());
    let bytes: Vec<u8> = body.as_bytes().iter().copied().chain(list).collect();
    Ok(Request::of_bytes(code::CREATE_DMA_REGION, &bytes, 8))
}

fn check_no_region_left(driver: &mut Driver<'_>) -> Outcome {
    super::check_inspect(driver, "/dma_regions/unused", 0)?;
    super::check_inspect(driver, "/dma_regions/pages_in_use", 0)
}

fn refused(
    driver: &mut Driver<'_>,
    status: Status,
    spoil: impl FnOnce(&mut CreateDmaRegionReq, &mut Vec<u64>),
) -> Outcome {
    let request = one_page(driver, spoil)?;
    driver.refuse(&request, status)?;
    check_no_region_left(driver)
}

fn may_begin_inside_a_page(driver: &mut Driver<'_>) -> Outcome {
    let request = one_page(driver, |body, _| {
        (body.offset_in_page, body.length) = (4095, 1);
    })?;
    driver.succeed(&request).map(|_| ())
}

fn may_end_inside_a_page(driver: &mut Driver<'_>) -> Outcome {
    let request = one_page(driver, |body, _| body.length = 1)?;
    driver.succeed(&request).map(|_| ())
}

fn are_not_empty(driver: &mut Driver<'_>) -> Outcome {
    refused(driver, Status::InvalidParameter, |body, pages| {
        (body.length, body.page_count, body.page_addr_list_len) = (0, 0, 0);
        pages.clear();
    })
}

fn have_as_many_pages_as_their_length_takes(driver: &mut Driver<'_>) -> Outcome {
    let request = one_page(driver, |body, _| body.length = 4097)?;
    driver.refuse(&request, Status::InvalidParameter)?;
    let pages = driver.page_list(2)?;
    let mut request = create_region(&pages, 2);
    request.body[..8].copy_from_slice(&4096u64.to_le_bytes());
    driver.refuse(&request, Status::InvalidParameter)?;
    check_no_region_left(driver)
}

fn have_lengths_that_do_not_overflow(driver: &mut Driver<'_>) -> Outcome {
    refused(driver, Status::InvalidParameter, |body, _| {
        (body.length, body.offset_in_page) = (u64::MAX, 4095);
    })
}

fn begin_inside_their_first_page(driver: &mut Driver<'_>) -> Outcome {
    refused(driver, Status::InvalidParameter, |body, pages| {
        (body.offset_in_page, body.length) = (4096, 1);
        (body.page_count, body.page_addr_list_len) = (2, 2);
        pages.push(0);
    })
}

fn are_of_4k_pages(driver: &mut Driver<'_>) -> Outcome {
    refused(driver, Status::InvalidParameter, |body, _| {
        body.gdma_page_type = 1;
    })
}

fn refuse_unaligned_pages(driver: &mut Driver<'_>) -> Outcome {
    refused(driver, Status::InvalidParameter, |_, pages| pages[0] += 8)
}

fn refuse_repeated_pages(driver: &mut Driver<'_>) -> Outcome {
    refused(driver, Status::InvalidParameter, |body, pages| {
        body.length = 3 * 4096;
        (body.page_count, body.page_addr_list_len) = (3, 3);
        pages.extend([0, pages[0]]);
    })
}

fn refuse_pages_outside_memory(driver: &mut Driver<'_>) -> Outcome {
    refused(driver, Status::InvalidAddress, |_, pages| {
        pages[0] = MEMORY_SIZE;
    })?;
    let highest = !0xfff;
    driver.refuse(&create_region(&[highest], 1), Status::InvalidAddress)?;
    check_no_region_left(driver)
}

fn refuse_a_list_longer_than_the_message(driver: &mut Driver<'_>) -> Outcome {
    refused(driver, Status::TooShort, |body, pages| {
        (body.page_count, body.length) = (2, 8192);
        body.page_addr_list_len = 2;
        pages.truncate(1);
    })?;
    let pages = driver.page_list(1)?;
    let mut request = create_region(&pages, 1);
    request.body[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    driver.refuse(&request, Status::TooShort)
}

fn refuse_a_list_longer_than_the_region(driver: &mut Driver<'_>) -> Outcome {
    refused(driver, Status::InvalidParameter, |body, pages| {
        body.page_addr_list_len = 2;
        pages.push(0);
    })
}

fn refuse_an_empty_list(driver: &mut Driver<'_>) -> Outcome {
    refused(driver, Status::InvalidParameter, |body, _| {
        body.page_addr_list_len = 0;
    })
}

fn need_room_for_their_handle(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(1)?;
    let mut request = create_region(&pages, 1);
    request.header.resp.msg_size -= 1;
    driver.refuse(&request, Status::ResponseTooSmall)?;
    check_no_region_left(driver)
}

fn may_be_larger_than_a_message(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(PAGES_PER_MESSAGE + 1)?;
    driver.region(&pages)?;
    let pages = driver.page_list(3 * PAGES_PER_MESSAGE)?;
    driver.region(&pages)?;
    let used = 4 * PAGES_PER_MESSAGE + 1;
    super::check_inspect(driver, "/dma_regions/pages_in_use", used)
}

fn take_pages_one_by_one(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(4)?;
    let handle = begin(driver, &pages)?;
    for page in &pages[1..3] {
        let response = driver.call(&add_pages(handle, &[*page]))?;
        response.expect(Status::MoreEntries)?;
    }
    driver.succeed(&add_pages(handle, &pages[3..])).map(|_| ())
}

/// Creates a region of these pages with only the first one.
fn begin(driver: &mut Driver<'_>, pages: &[u64]) -> Outcome<u64> {
    let response = driver.call(&create_region(pages, 1))?;
    let response = response.expect(Status::MoreEntries)?;
    Ok(response.parse::<DmaRegionHandle>()?.dma_region_handle)
}

fn a_large_one_makes_a_queue(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let mut eq = driver.create_eq(1, 1024 * 4096)?;
    driver.test_eq(eq.id)?.expect(Status::Success)?;
    driver.expect_interrupts(1, 1)?;
    check_eq("events", eq.drain(driver)?.len(), 1)
}

fn incomplete_ones_make_no_queue(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let pages = driver.page_list(2)?;
    let handle = begin(driver, &pages)?;
    let body = create_queue(QueueType::Eq, handle, 8192);
    let request = Request::new(code::CREATE_QUEUE, &body, 4);
    driver.refuse(&request, Status::InvalidState)?;
    driver.succeed(&add_pages(handle, &pages[1..]))?;
    driver.succeed(&request).map(|_| ())
}

fn incomplete_ones_can_be_destroyed(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(5)?;
    let handle = begin(driver, &pages)?;
    driver.succeed(&destroy_region(handle))?;
    check_no_region_left(driver)
}

fn refuse_pages_beyond_their_end(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(3)?;
    let handle = begin(driver, &pages[..2])?;
    let request = add_pages(handle, &pages[1..]);
    driver.refuse(&request, Status::InvalidParameter)?;
    driver.succeed(&add_pages(handle, &pages[1..2]))?;
    let request = add_pages(handle, &pages[2..]);
    driver.refuse(&request, Status::InvalidParameter)
}

fn refuse_bad_pages_later_too(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(2)?;
    let handle = begin(driver, &pages)?;
    let bad = [
        (vec![], Status::InvalidParameter),
        (vec![pages[0]], Status::InvalidParameter),
        (vec![pages[1] + 1], Status::InvalidParameter),
        (vec![MEMORY_SIZE], Status::InvalidAddress),
    ];
    for (list, status) in bad {
        driver.refuse(&add_pages(handle, &list), status)?;
    }
    driver.succeed(&add_pages(handle, &pages[1..])).map(|_| ())
}

fn unknown_ones_take_no_pages(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(2)?;
    let handle = begin(driver, &pages)?;
    driver.succeed(&destroy_region(handle))?;
    let request = add_pages(handle, &pages[1..]);
    driver.refuse(&request, Status::InvalidHandle)
}

fn added_lists_lie_inside_the_message(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let pages = driver.page_list(2)?;
    let handle = begin(driver, &pages)?;
    let mut request = add_pages(handle, &pages[1..]);
    request.body[8..12].copy_from_slice(&2u32.to_le_bytes());
    driver.refuse(&request, Status::TooShort)?;
    driver.succeed(&add_pages(handle, &pages[1..])).map(|_| ())
}

/// Returns a request for a region of this many pages, which holds one of them.
fn huge(driver: &mut Driver<'_>, page_count: u32) -> Outcome<Request> {
    let page = driver.page_list(1)?;
    let body = CreateDmaRegionReq {
        length: u64::from(page_count) * 4096,
        offset_in_page: 0,
        gdma_page_type: 0,
        page_count,
        page_addr_list_len: 1,
    };
    let bytes = [body.as_bytes(), &page[0].to_le_bytes()].concat();
    Ok(Request::of_bytes(code::CREATE_DMA_REGION, &bytes, 8))
}

fn have_a_largest_size(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = huge(driver, u32::MAX)?;
    driver.refuse(&request, Status::NoResources)?;
    check_no_region_left(driver)
}

fn run_out_and_come_back(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let page = driver.page_list(1)?;
    let mut handles = Vec::new();
    let last = loop {
        let response = driver.call(&create_region(&page, 1))?;
        if response.header.status != 0 || handles.len() > 100_000 {
            break response;
        }
        handles.push(response.parse::<DmaRegionHandle>()?.dma_region_handle);
    };
    last.expect(Status::NoResources)?;
    for handle in handles.drain(..).rev() {
        driver.succeed(&destroy_region(handle))?;
    }
    driver.region(&page)?;
    super::check_inspect(driver, "/dma_regions/pages_in_use", 1)
}

fn pages_run_out_and_come_back(driver: &mut Driver<'_>) -> Outcome {
    driver.establish()?;
    let request = huge(driver, 4096)?;
    let mut handles = Vec::new();
    let last = loop {
        let response = driver.call(&request)?;
        if response.header.status != Status::MoreEntries as u32 || handles.len() > 100_000 {
            break response;
        }
        handles.push(response.parse::<DmaRegionHandle>()?.dma_region_handle);
    };
    last.expect(Status::NoResources)?;
    for handle in handles {
        driver.succeed(&destroy_region(handle))?;
    }
    check_no_region_left(driver)?;
    driver
        .call(&request)?
        .expect(Status::MoreEntries)
        .map(|_| ())
}

fn belong_to_the_queue_made_of_them(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let pages = driver.page_list(1)?;
    let handle = driver.region(&pages)?;
    let body = create_queue(QueueType::Eq, handle, 4096);
    let request = Request::new(code::CREATE_QUEUE, &body, 4);
    driver.succeed(&request)?;
    driver.refuse(&destroy_region(handle), Status::InvalidHandle)?;
    driver.refuse(&request, Status::InvalidHandle)
}
