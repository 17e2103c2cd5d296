//! Both caches against plain attention in f64, with random layouts in blocks.

use candle_core::{DType, Device, Tensor};

use super::*;

struct Lcg(u64);
impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() % 2001) as f32 / 500. - 2.).collect()
    }
}

/// Attention of one query over the first `visible` of `keys` and `values`, `[T, head_dim]` each.
fn plain(q: &[f32], keys: &[&[f32]], values: &[&[f32]], visible: usize) -> Vec<f64> {
    let dot = |k: &[f32]| q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let scores: Vec<f64> = keys[..visible].iter().map(|k| (dot(k) / (q.len() as f64).sqrt()).exp()).collect();
    let total: f64 = scores.iter().sum();
    (0..q.len()).map(|d| scores.iter().zip(values).map(|(s, v)| s * f64::from(v[d])).sum::<f64>() / total).collect()
}

#[test]
fn fused_and_composed_agree_with_plain_attention() {
    let mut rng = Lcg(3);
    for (heads, kv_heads, head_dim) in [(9, 3, 64), (4, 2, 8), (5, 1, 20), (2, 2, 80), (8, 1, 64)] {
        let shape = CacheShape { layers: 2, heads, kv_heads, head_dim };
        let mut stores: Vec<Box<dyn KvStore>> = vec![
            Box::new(fused::FusedCache::new(shape, 32)),
            Box::new(composed::Composed::new(shape, 32, &Device::Cpu).unwrap()),
        ];
        // Blocks in random order, so that layouts are scattered.
        let mut free: Vec<u32> = (0..32).collect();
        (0..32).for_each(|i| free.swap(i, rng.below(32)));
        // Three sequences that grow over several steps; their keys and values per layer.
        let mut tables: Vec<Vec<BlockSpan>> = vec![Vec::new(); 3];
        let mut history = vec![vec![(Vec::new(), Vec::new()); 3]; 2];
        for step in 0..6 {
            let mut plan = StepPlan::default();
            for (table, spans) in tables.iter_mut().enumerate() {
                let mut seen: usize = spans.iter().map(|s| s.len as usize).sum();
                for _ in 0..rng.below(22) {
                    // A span may be left short, as the end of a prompt is.
                    let full = spans.last().is_none_or(|s| s.len as usize == BLOCK || rng.below(20) == 0);
                    if full {
                        spans.push(BlockSpan { block: free.pop().unwrap(), len: 0 });
                    }
                    let last = spans.last_mut().unwrap();
                    let write = Some((last.block, last.len));
                    last.len += 1;
                    seen += 1;
                    plan.rows.push(StepRow { table, visible: seen, write });
                }
                if seen > 0 && rng.below(2) == 0 {
                    plan.rows.push(StepRow { table, visible: seen, write: None });
                }
            }
            plan.tables = tables.clone();
            let n = plan.rows.len();
            if n == 0 {
                continue;
            }
            for (layer, history) in history.iter_mut().enumerate() {
                let [q, k, v] = [heads, kv_heads, kv_heads].map(|h| rng.floats(n * h * head_dim));
                for (i, row) in plan.rows.iter().enumerate().filter(|(_, r)| r.write.is_some()) {
                    let (keys, values) = &mut history[row.table];
                    let at = i * kv_heads * head_dim..(i + 1) * kv_heads * head_dim;
                    keys.push(k[at.clone()].to_vec());
                    values.push(v[at].to_vec());
                }
                let tensor = |x: &[f32], h| Tensor::from_slice(x, (n, h, head_dim), &Device::Cpu).unwrap();
                for store in &mut stores {
                    let out =
                        store.attend(&plan, layer, &tensor(&q, heads), &tensor(&k, kv_heads), &tensor(&v, kv_heads));
                    let out = out.unwrap().to_vec3::<f32>().unwrap();
                    for (i, row) in plan.rows.iter().enumerate() {
                        for head in 0..heads {
                            let got = &out[i][head];
                            let (keys, values) = &history[row.table];
                            let kv = head / (heads / kv_heads) * head_dim;
                            let part = |all: &'_ [Vec<f32>]| -> Vec<Vec<f32>> {
                                all.iter().map(|x| x[kv..kv + head_dim].to_vec()).collect()
                            };
                            let (keys, values) = (part(keys), part(values));
                            let q = &q[(i * heads + head) * head_dim..][..head_dim];
                            let keys: Vec<&[f32]> = keys.iter().map(Vec::as_slice).collect();
                            let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
                            for (got, want) in got.iter().zip(plain(q, &keys, &values, row.visible)) {
                                assert!((f64::from(*got) - want).abs() < 2e-5, "{got}, not {want}, in step {step}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn half_precision_is_attended_in_f32() {
    let shape = CacheShape { layers: 1, heads: 2, kv_heads: 1, head_dim: 4 };
    let mut store = composed::Composed::new(shape, 2, &Device::Cpu).unwrap();
    let plan = StepPlan {
        tables: vec![vec![BlockSpan { block: 1, len: 1 }]],
        rows: vec![StepRow { table: 0, visible: 1, write: Some((1, 0)) }],
    };
    let ones = |h: usize| Tensor::ones((1, h, 4), DType::BF16, &Device::Cpu).unwrap();
    let out = store.attend(&plan, 0, &ones(2), &ones(1), &ones(1)).unwrap();
    assert_eq!(out.to_dtype(DType::F32).unwrap().to_vec3::<f32>().unwrap(), [[[1f32; 4]; 2]]);
}
