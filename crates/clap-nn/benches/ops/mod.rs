//! How a bench times its operations: by criterion, or, with `--serve`, for `cargo xtask bench --ops`, one line in and one out.
//!
//! An operation runs forward on constants, as inference does, or forward and backward on variables, as training does; the upstream gradient is
//! that of a sum. `names` is answered with the names, separated by `; `; `FORM DIRECTION NAME` with the seconds of one run, where FORM is
//! `fused` or `composed` and DIRECTION `forward` or `both`, and with `none` where the operation has no such form.

use std::io::Write as _;
use std::time::Instant;

use candle_core::{Device, Result, Tensor, Var};
use criterion::Criterion;

/// The runner's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A function of tensors of an operation's shapes, which may hold weights in the form that a layer computes with.
pub(crate) type Function = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// A function of tensors of an operation's shapes, of plain candle operations.
pub(crate) type Composed = fn(&[Tensor]) -> Result<Tensor>;

/// An operation with its inputs, ready to run.
type Ready = Box<dyn Fn() -> Result<()>>;

/// An operation in its forms.
pub(crate) struct Op {
    /// What `tests/reference/bench_ops.py` calls it too.
    pub(crate) name: &'static str,
    /// Of the inputs that a gradient is taken of.
    pub(crate) shapes: &'static [&'static [usize]],
    /// Our fused form, made once of the tensors that it will be given.
    pub(crate) fused: fn(&[Tensor]) -> Result<Function>,
    /// The same from plain candle operations; `None` where the fused form is nothing else.
    pub(crate) composed: Option<Composed>,
}

/// Seconds that repeated runs of a short operation fill.
const LEAST: f64 = 0.02;

/// Runs `ops` as the arguments ask.
pub(crate) fn main(group: &str, ops: &[Op]) -> Result<()> {
    keep_memory();
    if std::env::args().any(|argument| argument == "--serve") { serve(ops) } else { bench(group, ops) }
}

/// The allocator keeps its pages, as the runner's does: see `prepare` in `xtask/src/main.rs`.
fn keep_memory() {
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_use_numa_nodes - 1;
    // SAFETY: `mi_option_set` stores one integer in a static table; it is called before any thread is started.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}

impl Op {
    /// `form` in `direction`, after a first run; `None` where there is no such form.
    fn ready(&self, form: &str, direction: &str) -> Result<Option<Ready>> {
        let backward = direction == "both";
        let make = |shape: &&[usize]| {
            let variable = Var::randn(0f32, 1.0, *shape, &Device::Cpu)?;
            Ok(if backward { variable.as_tensor().clone() } else { variable.as_detached_tensor() })
        };
        let inputs = self.shapes.iter().map(make).collect::<Result<Vec<_>>>()?;
        let function = match (form, self.composed) {
            ("fused", _) => (self.fused)(&inputs)?,
            (_, Some(composed)) => Box::new(composed),
            _ => return Ok(None),
        };
        let ready: Ready = Box::new(move || {
            let ys = function(&inputs)?;
            if backward {
                // The sum costs a pass over the result; its gradient is a broadcast that the operation makes contiguous, as a layer above would.
                ys.sum_all()?.backward()?;
            }
            Ok(())
        });
        ready()?;
        Ok(Some(ready))
    }
}

fn bench(group: &str, ops: &[Op]) -> Result<()> {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group(group);
    for op in ops {
        for (form, direction) in
            [("fused", "forward"), ("composed", "forward"), ("fused", "both"), ("composed", "both")]
        {
            if let Some(ready) = op.ready(form, direction)? {
                group.bench_function(format!("{}, {form}, {direction}", op.name), |bencher| bencher.iter(&ready));
            }
        }
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

fn serve(ops: &[Op]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut current: Option<(String, Option<Ready>)> = None;
    for line in std::io::stdin().lines() {
        let line = line?;
        if line == "names" {
            let names: Vec<_> = ops.iter().map(|op| op.name).collect();
            writeln!(out, "{}", names.join("; "))?;
        } else {
            if current.as_ref().is_none_or(|(last, _)| *last != line) {
                let mut words = line.splitn(3, ' ');
                let [form, direction, name] = std::array::from_fn(|_| words.next().unwrap_or_default());
                let Some(op) = ops.iter().find(|op| op.name == name) else {
                    candle_core::bail!("`{line}` is none of ours")
                };
                let ready = op.ready(form, direction)?;
                current = Some((line, ready));
            }
            match current.as_ref().and_then(|(_, ready)| ready.as_ref()) {
                Some(ready) => writeln!(out, "{}", seconds(ready)?)?,
                None => writeln!(out, "none")?,
            }
        }
        out.flush()?;
    }
    Ok(())
}

/// Of one run: the mean of as many as fill [`LEAST`].
fn seconds(run: &Ready) -> Result<f64> {
    let start = Instant::now();
    let mut runs = 0;
    loop {
        run()?;
        runs += 1;
        let elapsed = start.elapsed().as_secs_f64();
        if elapsed >= LEAST {
            return Ok(elapsed / f64::from(runs));
        }
    }
}
