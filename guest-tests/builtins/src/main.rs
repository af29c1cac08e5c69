//! Measures two ways for a sandboxed device to access the guest's rings: windows, in a
//! core module that is called directly, and wasmtime's compile-time builtins, in a
//! component.

mod builtins;
mod compose;
mod guest;
mod machine;
mod pages;
mod report;
mod sample;

use wasmtime::{Result, Trap, bail, ensure, format_err};

use compose::Join;
use guest::{Access, Check, RING};
use machine::{Export, Inlined, Machine, engine};
use pages::Pages;
use report::Calls;
use sample::{Contender, alternate};

/// Entries a call.
const BATCH: u64 = 64;
/// Calls of the host in a call of `notify`.
const NOTES: u64 = 64;

fn main() -> Result<()> {
    let pages = Pages::new()?;
    let nothing = engine(Inlined::Nothing)?;
    let default = engine(Inlined::AsDefault)?;
    let everything = engine(Inlined::Everything)?;
    let checked = Access::Words(Check::OwnCode);
    let intrinsic = Access::Words(Check::Intrinsic);

    let direct = || Machine::direct(&nothing, &pages);
    let model = |engine, access| Machine::model(engine, &pages, access, Join::Components);
    let builtins = |access| model(&everything, access);
    let modules = |access| Machine::model(&everything, &pages, access, Join::Modules);
    let batches = [
        ("windows, the module called directly", direct()?),
        (
            "own memory, component model",
            model(&nothing, Access::Window)?,
        ),
        ("builtins, a check each", builtins(checked)?),
        ("  inlined as by default", model(&default, checked)?),
        ("  not inlined", model(&nothing, checked)?),
        ("  wasmtime's checked intrinsics", builtins(intrinsic)?),
        (
            "  no check (unsound)",
            builtins(Access::Words(Check::Nothing))?,
        ),
        (
            "  a builtin for a whole completion",
            builtins(Access::Completions)?,
        ),
        ("builtins without adapters, a check each", modules(checked)?),
        (
            "  a builtin for a whole completion",
            modules(Access::Completions)?,
        ),
    ];
    let mut contenders = vec![];
    for (name, machine) in batches {
        contenders.push(batch(name, machine, &pages)?);
    }
    let (direct_calls, model_calls) = (contenders.len(), contenders.len() + 2);
    for (name, machine, export) in [
        ("into the module", direct()?, Export::Empty),
        ("out of the module", direct()?, Export::Notify),
        ("into the component", builtins(checked)?, Export::Empty),
        ("out of the component", builtins(checked)?, Export::Notify),
    ] {
        contenders.push(calls(name, machine, export)?);
    }

    alternate(&mut contenders);
    let of = |first: usize| Calls {
        empty: &contenders[first],
        notify: &contenders[first + 1],
    };
    report::print(
        &contenders[..direct_calls],
        &of(direct_calls),
        &of(model_calls),
    );
    for access in [checked, intrinsic, Access::Completions] {
        bounded(builtins(access)?, access)?;
        bounded(modules(access)?, access)?;
    }
    println!("\nA guest that goes beyond the end traps, by each builtin that checks.");
    Ok(())
}

/// Measures a call that reads the next entries and publishes their completions. First
/// checks the results.
fn batch(name: &'static str, mut machine: Machine, pages: &Pages) -> Result<Contender> {
    for position in [0, RING - BATCH / 2] {
        pages.forget_completions();
        let sum = machine.call(Export::Batch, position, BATCH)?;
        ensure!(
            sum == pages.sum(position, BATCH),
            "{name}: entries were misread"
        );
        if machine.has_pages() {
            pages
                .check(position, BATCH)
                .map_err(|wrong| format_err!("{name}: {wrong}"))?;
        }
    }
    Ok(Contender::new(name, move |call| {
        let done = machine.call(Export::Batch, call * BATCH, BATCH);
        std::hint::black_box(done.expect("a batch that worked before"));
    }))
}

/// Measures a call of an export that does no work of its own.
fn calls(name: &'static str, mut machine: Machine, export: Export) -> Result<Contender> {
    machine.call(export, 0, NOTES)?;
    Ok(Contender::new(name, move |call| {
        let done = machine.call(export, call, NOTES);
        std::hint::black_box(done.expect("a call that worked before"));
    }))
}

/// Checks that the last completion can be published, and that the call traps once the
/// pages end a word earlier.
fn bounded(mut machine: Machine, access: Access) -> Result<()> {
    machine.call(Export::Batch, RING - 1, 1)?;
    machine.shorten(8);
    match machine.call(Export::Batch, RING - 1, 1) {
        Err(error) if error.is::<Trap>() => Ok(()),
        other => bail!("{access:?}: a word beyond the end was to trap, and gave {other:?}"),
    }
}
