//! Beam searches as requests: what the search alone finds, whatever runs beside it, on few blocks.

use super::*;

/// What the scripted device's candidates lead to, without an engine; nothing if a live beam meets bad logits.
pub fn search_alone(request: &Request) -> Option<Vec<Hypothesis>> {
    let params = &request.params;
    let end_ids = if params.ignore_eos { Vec::new() } else { vec![END] };
    let mut search = BeamSearch::new(request.beams.clone().unwrap(), end_ids, params.max_tokens.unwrap());
    loop {
        let before_min_length = search.length() < params.min_tokens;
        let hash_of =
            |beam| request.prompt_ids.iter().chain(&search.live_ids(beam)).fold(EMPTY_HASH, |h, id| hash_with(h, id.0));
        let hashes: Vec<u32> = (0..search.num_live()).map(hash_of).collect();
        if params.frequency_penalty != 0.0 && hashes.iter().any(|hash| hash.is_multiple_of(BAD_ROW_EVERY)) {
            return None;
        }
        let all: Vec<_> = hashes.into_iter().map(|hash| candidates(hash, before_min_length)).collect();
        if search.advance(&all) == Advance::Done {
            return Some(search.results());
        }
    }
}

fn beam_request(i: u32, num_beams: u32) -> Request {
    let request = request(i);
    let length_penalty = [0.0, 1.0, -0.5][i as usize % 3];
    let beams = BeamParams { num_beams, num_return: num_beams, length_penalty, ..BeamParams::default() };
    Request { beams: Some(beams), ..request }
}

/// What was found, and the most blocks that were used at once.
fn search(engine: &mut Engine, request: Request) -> (Vec<Hypothesis>, u32) {
    engine.add(request).unwrap();
    let (mut found, mut blocks_used_max) = (Vec::new(), 0);
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let Event::Found { results, .. } = event {
                found = results;
            }
        }
        let blocks = engine.scheduler.blocks();
        blocks_used_max = blocks_used_max.max(blocks.num_blocks() - blocks.num_available());
    }
    (found, blocks_used_max)
}

#[test]
fn beams_find_what_the_search_alone_finds_under_any_pressure() {
    let requests = || (0..12).map(|i| beam_request(i, 1 + i % 3));
    let alone: Vec<_> = requests().map(|request| search_alone(&request).unwrap()).collect();
    assert!(alone.iter().any(|found| found.iter().any(|h| h.is_stopped) && found.iter().any(|h| !h.is_stopped)));
    let mut preemptions = 0;
    for depth in [1, 2] {
        for blocks in [9, 12, 64] {
            for rows in [4, 16, 512] {
                let mut engine = engine(depth, blocks, rows);
                // Ordinary requests run beside the beams.
                let mut add_both = |(i, beams): (u32, Request)| {
                    engine.add(request(12 + i)).unwrap();
                    engine.add(beams).unwrap()
                };
                let ids: Vec<SeqId> = (0..).zip(requests()).map(&mut add_both).collect();
                let mut found = HashMap::new();
                while !engine.is_idle() {
                    for event in engine.step().unwrap() {
                        if let Event::Found { seq, results } = event {
                            assert!(found.insert(seq, results).is_none(), "{seq} finds twice");
                        }
                    }
                }
                let found: Vec<_> = ids.iter().map(|id| found.remove(id).unwrap()).collect();
                assert_eq!(found, alone, "depth {depth}, {blocks} blocks, {rows} rows");
                assert_eq!(engine.scheduler.blocks().num_available(), blocks, "blocks leak");
                preemptions += engine.preemptions();
            }
        }
    }
    assert!(preemptions >= 5, "memory pressure was meant to preempt: {preemptions}");
}

#[test]
fn beams_share_the_blocks_of_a_long_prompt() {
    let limits = Limits { slots_max: 10, logit_rows_max: 10, context_tokens_max: 2000, ..limits(400, 512) };
    let mut engine = Engine::new(Box::new(Scripted::new(limits, 2, None)), VOCAB, vec![END]);
    let prompt_ids: Vec<TokenId> = (0..1000).map(|i| TokenId(i * 7 % 900)).collect();
    let beams = BeamParams { num_beams: 10, num_return: 10, ..BeamParams::default() };
    let params = SamplingParams { max_tokens: Some(30), ignore_eos: true, ..SamplingParams::default() };
    let request = Request { beams: Some(beams), ..Request::new(prompt_ids, params, 0) };
    let alone = search_alone(&request).unwrap();
    let (found, used_blocks_max) = search(&mut engine, request);
    assert_eq!(found, alone);
    // The prompt fills 62 blocks and half of another, of which each beam has its own; 29 computed tokens need one or two more.
    let one_sequence = (1000 + 29u32).div_ceil(16);
    assert_eq!(one_sequence, 65);
    assert!(used_blocks_max <= 62 + 10 * 3, "{used_blocks_max} blocks");
    let diverged: u32 = 10 * (one_sequence - 62);
    assert!(f64::from(used_blocks_max) < 1.3 * f64::from(one_sequence) + f64::from(diverged));
    assert!(used_blocks_max > one_sequence, "beams were meant to diverge");
}

#[test]
fn impossible_searches_are_refused_with_the_numbers() {
    let mut engine = engine(1, 8, 64);
    let text = |engine: &mut Engine, request| engine.add(request).unwrap_err().to_string();
    assert!(text(&mut engine, beam_request(1, 4)).contains("4 beams run as so many sequences at once, and at most 3"));
    assert!(text(&mut engine, beam_request(1, 17)).contains("num_beams"));
    let long = |max_tokens| {
        let params = SamplingParams { max_tokens: Some(max_tokens), ..SamplingParams::default() };
        Request { params, prompt_ids: vec![TokenId(1); 40], ..beam_request(1, 3) }
    };
    // Two full blocks are shared; the rest is each beam's own.
    assert!(text(&mut engine, long(26)).contains("can need 11"));
    engine.add(long(25)).unwrap();
}

#[test]
fn prompts_that_come_together_are_computed_once() {
    let device = Scripted::new(limits(64, 32), 2, None);
    let rows = Arc::clone(&device.rows);
    let mut engine = Engine::new(Box::new(device), VOCAB, vec![END]);
    let params = SamplingParams { max_tokens: Some(1), ..SamplingParams::default() };
    for _ in 0..4 {
        engine.add(Request::new((0..100).map(TokenId).collect(), params.clone(), 0)).unwrap();
    }
    assert_eq!(finish(&mut engine).len(), 4);
    // 96 of 100 tokens are full blocks.
    assert_eq!(rows.load(Ordering::Relaxed), 100 + 3 * 4);
}
