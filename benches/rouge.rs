//! The search for near copies among 100,000 prompts, against comparing with all of them.
//!
//! ```text
//! cargo bench --bench rouge                      # or: cargo bench --bench rouge -- 10000
//! ```
//! Prompts are made of a Zipf-distributed vocabulary of 20,000 words, 6 to 40 words each, as instructions are. Half of the
//! queries are new ones, half are copies of a prompt with every fourth word changed, some just below and some above the
//! threshold. Both searches must say the same.

use std::time::Instant;

use reflux::eval::rouge::{NearCopies, rouge_l, words};

/// A generator of numbers without state elsewhere (splitmix64).
struct Draw(u64);
impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
    /// A word: the density of its rank falls as one over the rank.
    fn word(&mut self) -> String {
        let u = self.below(1 << 30) as f64 / (1u64 << 30) as f64;
        format!("w{}", 20_000f64.powf(u) as u64)
    }
    fn prompt(&mut self) -> Vec<String> {
        (0..6 + self.below(35)).map(|_| self.word()).collect()
    }
}

fn main() {
    let asked = std::env::args().filter_map(|a| a.parse().ok()).next();
    let count: usize = asked.unwrap_or(100_000);
    let mut draw = Draw(1);
    let pool: Vec<Vec<String>> = (0..count).map(|_| draw.prompt()).collect();
    let started = Instant::now();
    let mut near = NearCopies::new(0.7);
    pool.iter().for_each(|p| near.insert(&p.join(" ")));
    let built = started.elapsed().as_secs_f64();
    let queries: Vec<Vec<String>> = (0..2000)
        .map(|i| {
            if i % 2 == 0 {
                return draw.prompt();
            }
            let mut copy = pool[draw.below(count as u64) as usize].clone();
            (0..copy.len()).step_by(4).for_each(|at| copy[at] = draw.word());
            copy
        })
        .collect();
    let started = Instant::now();
    let found: Vec<Option<usize>> = queries.iter().map(|q| near.first(&q.join(" ")).map(|n| n.text)).collect();
    let index = queries.len() as f64 / started.elapsed().as_secs_f64();
    // A few queries suffice for the rate of all pairs; the decisions of these are compared.
    let some: Vec<usize> = (0..queries.len()).step_by(queries.len() / 20).chain([1, 3, 5, 7, 9, 11]).collect();
    let started = Instant::now();
    for &i in &some {
        let query = words(&queries[i].join(" "));
        let all = pool.iter().position(|p| rouge_l(p, &query) > 0.7);
        assert_eq!(all, found[i], "query {i}");
    }
    let pairs = some.len() as f64 / started.elapsed().as_secs_f64();
    let copies = found.iter().flatten().count();
    println!(
        "{{\"prompts\":{count},\"insert_per_s\":{:.0},\"queries_per_s\":{index:.0},\"all_pairs_queries_per_s\":{pairs:.2},\"ratio\":{:.0},\"copies\":{copies},\"queries\":{}}}",
        count as f64 / built,
        index / pairs,
        queries.len(),
    );
}
