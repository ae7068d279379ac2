//! Floor 4. The shortest schedule that still fails: delta debugging (Zeller's ddmin) over its steps, then
//! over the numbers in them.

use super::schedule::{Operation, Schedule, Step};
use std::time::Duration;

/// Tries `fails` on shorter and shorter schedules; no more than `tries` times.
pub(super) fn shrink(
    schedule: Schedule,
    mut tries: usize,
    mut fails: impl FnMut(&Schedule) -> bool,
) -> Schedule {
    let mut fails = |steps: &[Step]| {
        let steps = steps.to_vec();
        let may_try = tries > 0;
        tries = tries.saturating_sub(1);
        may_try && fails(&Schedule { steps })
    };
    let mut steps = schedule.steps;
    loop {
        let before = steps.clone();
        whole_clients(&mut steps, &mut fails);
        halves(&mut steps, &mut fails);
        numbers(&mut steps, &mut fails);
        if steps == before {
            return Schedule { steps };
        }
    }
}

/// Leaves out one actor after the other.
fn whole_clients(steps: &mut Vec<Step>, fails: &mut impl FnMut(&[Step]) -> bool) {
    let mut actors: Vec<_> = steps.iter().map(|step| step.client).collect();
    actors.sort();
    actors.dedup();
    for actor in actors {
        let rest = steps.iter().filter(|step| step.client != actor);
        let rest: Vec<_> = rest.cloned().collect();
        if rest.len() < steps.len() && fails(&rest) {
            *steps = rest;
        }
    }
}

/// Leaves out halves, quarters and so on, down to single steps.
fn halves(steps: &mut Vec<Step>, fails: &mut impl FnMut(&[Step]) -> bool) {
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let end = steps.len().min(at + size);
            let rest = [&steps[..at], &steps[end..]].concat();
            if fails(&rest) {
                *steps = rest;
            } else {
                at = end;
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
}

/// Makes bodies and waits shorter, and requests plainer.
fn numbers(steps: &mut Vec<Step>, fails: &mut impl FnMut(&[Step]) -> bool) {
    for at in 0..steps.len() {
        // Each is simpler than the one before, so this ends.
        while let Some(shorter) = simpler(&steps[at].operation)
            .into_iter()
            .find_map(|operation| {
                let mut shorter = steps.clone();
                shorter[at].operation = operation;
                fails(&shorter).then_some(shorter)
            })
        {
            *steps = shorter;
        }
    }
}

fn simpler(operation: &Operation) -> Vec<Operation> {
    let less = |n: usize| [0, n / 4, n / 2].into_iter().filter(move |&less| less < n);
    match operation {
        Operation::Ask(ask) => {
            let mut all = Vec::new();
            let mut with = |change: &dyn Fn(&mut super::Ask)| {
                let mut ask = ask.clone();
                change(&mut ask);
                all.push(ask);
            };
            less(ask.body).for_each(|body| with(&|ask| ask.body = body));
            with(&|ask| ask.chunked = None);
            with(&|ask| ask.head = 0);
            with(&|ask| ask.fields = 0);
            with(&|ask| ask.by_head = false);
            with(&|ask| ask.http_10 = false);
            with(&|ask| ask.says = false);
            with(&|ask| ask.expects = false);
            all.retain(|simpler| simpler != ask);
            all.into_iter().map(Operation::Ask).collect()
        }
        Operation::Wait(time) => {
            let micros = usize::try_from(time.as_micros()).unwrap_or(usize::MAX);
            let wait = |micros| Operation::Wait(Duration::from_micros(micros as u64));
            less(micros).map(wait).collect()
        }
        Operation::Connect(listener) if *listener > 0 => vec![Operation::Connect(0)],
        Operation::Send(_) | Operation::SendHead => vec![Operation::SendAll],
        _ => Vec::new(),
    }
}
