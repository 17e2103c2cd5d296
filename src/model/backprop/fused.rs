//! The handwritten pass for the CPU, in f32. Half-precision weights are widened where they are used; their
//! gradients are f32.
//!
//! A layer is `x2 = x + attend(norm(x)) Wo^T`, `x3 = x2 + swiglu(norm(x2) Wg^T, norm(x2) Wu^T) Wd^T`. It
//! keeps x, the rotated q and k, v, the attention's result, x2, gate and up. The backward pass recomputes
//! norms and swiglu.

use candle_core::Result;

use super::cpu_weights::{Adapter, CpuWeights, Linear, Weight};
use super::{ForwardOptions, Gradients, PackedRows, Pool};
use crate::model::ops::Dropout;
use crate::model::ops::fused::{HeadShape, Matrix, attention, log_prob, product, rms_norm, rotate, swiglu};

impl Linear<'_> {
    /// Computes `y = x W^T`, or adds it to y if `onto`.
    fn forward(&self, x: &[f32], y: &mut [f32], onto: bool) {
        let (n, width) = (x.len() / self.width, self.width);
        product(
            (n, self.out, width),
            Matrix::rows(x, width),
            Matrix::rows(&self.weight.numbers.as_f32(), width).t(),
            y,
            onto,
        );
        if let Some(adapter) = &self.adapter {
            let (inner, rank) = (adapter.inner(x, width), adapter.rank);
            product(
                (n, self.out, rank),
                Matrix::rows(&inner, rank),
                Matrix::rows(&adapter.b.numbers.as_f32(), rank).t(),
                y,
                true,
            );
        }
    }

    /// Adds the gradients of the weights. Computes the gradient of x, `dx = dy W`, or adds it to dx if
    /// `onto`.
    fn backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32], onto: bool, to: &mut GradientSink) -> Result<()> {
        let (n, out, width) = (x.len() / self.width, self.out, self.width);
        let (rows, slopes) = (Matrix::rows(x, width), Matrix::rows(dy, out));
        self.weight.gradient(to, (out, width, n), slopes.t(), rows)?;
        product((n, width, out), slopes, Matrix::rows(&self.weight.numbers.as_f32(), width), dx, onto);
        if let Some(adapter) = &self.adapter {
            let rank = adapter.rank;
            // Not stored by the forward: it costs a product of the adapter's rank only.
            let inner = adapter.inner(x, width);
            adapter.b.gradient(to, (out, rank, n), slopes.t(), Matrix::rows(&inner, rank))?;
            // The gradient of B is done with `inner`, so its memory serves the gradient of it.
            let mut to_inner = inner;
            product((n, rank, out), slopes, Matrix::rows(&adapter.b.numbers.as_f32(), rank), &mut to_inner, false);
            // The forward scales after the product with A, so the scale is part of A's gradient.
            to_inner.iter_mut().for_each(|x| *x *= adapter.scale);
            let to_inner = Matrix::rows(&to_inner, rank);
            adapter.a.gradient(to, (rank, width, n), to_inner.t(), rows)?;
            product((n, width, rank), to_inner, Matrix::rows(&adapter.a.numbers.as_f32(), width), dx, true);
        }
        Ok(())
    }
}

impl Adapter<'_> {
    /// Computes `scale x A^T`, `[n, rank]`.
    fn inner(&self, x: &[f32], width: usize) -> Vec<f32> {
        let mut inner = vec![0f32; x.len() / width * self.rank];
        let a = self.a.numbers.as_f32();
        let a = Matrix::rows(&a, width).t();
        product((x.len() / width, self.rank, width), Matrix::rows(x, width), a, &mut inner, false);
        inner.iter_mut().for_each(|x| *x *= self.scale);
        inner
    }
}

impl Weight<'_> {
    /// Adds `a b` to the weight's gradient, if the weight is trained.
    fn gradient(&self, to: &mut GradientSink, size: (usize, usize, usize), a: Matrix, b: Matrix) -> Result<()> {
        if let Some(name) = &self.name {
            let (sum, fresh) = to.gradients.numbers(name, self.numbers.len(), to.pool)?;
            // A fresh buffer has unspecified contents, so the product overwrites it.
            product(size, a, b, sum, !fresh);
        }
        Ok(())
    }

    /// Backward of a norm: adds the weight's gradient, and replaces the gradient of the result with that of
    /// the rows.
    fn norm_backward(&self, x: &[f32], eps: f32, dy: &mut [f32], to: &mut GradientSink) -> Result<()> {
        if let Some(name) = &self.name {
            // The weight's gradient comes first, because the rows' gradient replaces `dy`.
            rms_norm::to_w(x, eps, dy, to.gradients.zeroed(name, self.numbers.len(), to.pool)?);
        }
        rms_norm::to_x(x, &self.numbers.as_f32(), eps, dy);
        Ok(())
    }
}

/// Destination of gradients, and the memory for them.
struct GradientSink<'s> {
    gradients: &'s mut Gradients,
    pool: &'s mut Pool,
}

/// Intermediate values of a layer.
struct LayerValues {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    log_sums: Vec<f32>,
    x2: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
}

/// A forward in progress: the model, the rows and their angles.
struct Pass<'a> {
    plain: CpuWeights<'a>,
    rows: &'a PackedRows,
    dropout: Dropout,
    angles: (Vec<f32>, Vec<f32>),
}

pub(super) struct FusedTape<'a> {
    pass: Pass<'a>,
    /// The input of each layer and, unless it is to be recomputed, the layer's intermediate values.
    layers: Vec<(Vec<f32>, Option<LayerValues>)>,
    /// The states that predict a target, before and after the last norm.
    last: (Vec<f32>, Vec<f32>),
    log_sums: Vec<f32>,
    /// Their first logits, up to a limit of memory.
    logits: log_prob::Logits,
}

/// Computes the log-probabilities and keeps nothing.
pub(super) fn log_probs(plain: CpuWeights<'_>, rows: &PackedRows, pool: &mut Pool) -> Result<Vec<f32>> {
    let pass = Pass::new(plain, rows, Dropout::default())?;
    let mut x = pass.embedded(pool)?;
    for layer in 0..pass.plain.layers.len() {
        let (out, inner) = pass.forward(layer, &x, pool);
        Pass::release(inner, pool);
        pool.give(std::mem::replace(&mut x, out));
    }
    let (gathered, normed) = pass.last(&x, pool)?;
    let (log_probs, _) = pass.head(&normed).forward(None);
    for buffer in [x, gathered, normed] {
        pool.give(buffer);
    }
    Ok(log_probs)
}

/// Computes the log-probabilities and keeps what the backward pass needs.
pub(super) fn record<'a>(
    plain: CpuWeights<'a>,
    rows: &'a PackedRows,
    options: ForwardOptions,
    pool: &mut Pool,
) -> Result<(Vec<f32>, FusedTape<'a>)> {
    let pass = Pass::new(plain, rows, options.dropout)?;
    let mut layers = Vec::with_capacity(pass.plain.layers.len());
    let mut x = pass.embedded(pool)?;
    for layer in 0..pass.plain.layers.len() {
        let (out, inner) = pass.forward(layer, &x, pool);
        let kept = if options.checkpoint {
            Pass::release(inner, pool);
            None
        } else {
            Some(inner)
        };
        layers.push((std::mem::replace(&mut x, out), kept));
    }
    let last = pass.last(&x, pool)?;
    pool.give(x);
    let mut logits = log_prob::Logits::default();
    let keep = (!options.checkpoint).then_some(&mut logits);
    let (log_probs, log_sums) = pass.head(&last.1).forward(keep);
    Ok((log_probs, FusedTape { pass, layers, last, log_sums, logits }))
}

impl<'a> Pass<'a> {
    fn new(plain: CpuWeights<'a>, rows: &'a PackedRows, dropout: Dropout) -> Result<Self> {
        let angles = plain.rope.angles(&rows.positions)?;
        if let Some(id) = rows.ids.iter().chain(&rows.targets).find(|id| **id as usize >= plain.config.vocab_size) {
            candle_core::bail!("token {id} is outside the vocabulary of {}", plain.config.vocab_size)
        }
        if rows.from.len() != rows.targets.len() || rows.from.iter().any(|r| *r as usize >= rows.ids.len()) {
            candle_core::bail!("the {} targets are not predicted by rows of the batch", rows.targets.len())
        }
        attention::check(&rows.segments, rows.ids.len())?;
        Ok(Self { plain, rows, dropout, angles })
    }

    fn n(&self) -> usize {
        self.rows.ids.len()
    }
    fn d(&self) -> usize {
        self.plain.config.hidden_size
    }
    fn eps(&self) -> f32 {
        self.plain.config.rms_norm_eps as f32
    }
    fn shape(&self) -> HeadShape {
        let c = self.plain.config;
        HeadShape { heads: c.num_attention_heads, kv_heads: c.kv_heads(), width: c.head_dim() }
    }
    fn rotate(&self, x: &mut [f32], heads: usize, back: bool) {
        rotate(x, heads, (&self.angles.0, &self.angles.1), self.plain.config.head_dim() / 2, back);
    }
    /// Applies dropout to the output of a layer's attention (0) or MLP (1).
    fn drop(&self, layer: usize, part: usize, numbers: &mut [f32]) {
        self.dropout.apply(&self.rows.keys, (2 * layer + part) as u64, self.d(), numbers);
    }

    fn embedded(&self, pool: &mut Pool) -> Result<Vec<f32>> {
        let d = self.d();
        let mut x = pool.rows(self.n(), d);
        for (x, id) in x.chunks_exact_mut(d).zip(&self.rows.ids) {
            let row = *id as usize * d;
            x.copy_from_slice(&self.plain.embed.numbers.part(row..row + d));
        }
        Ok(x)
    }

    /// Computes a layer. Returns its result and its intermediate values.
    fn forward(&self, index: usize, x: &[f32], pool: &mut Pool) -> (Vec<f32>, LayerValues) {
        let layer = &self.plain.layers[index];
        let (n, d, shape) = (self.n(), self.d(), self.shape());
        let mut y = pool.rows(n, d);
        rms_norm::forward(x, &layer.attention_norm.numbers.as_f32(), self.eps(), &mut y);
        let project = |linear: &Linear, y: &[f32], pool: &mut Pool| {
            let mut out = pool.rows(n, linear.out);
            linear.forward(y, &mut out, false);
            out
        };
        let (mut q, mut k) = (project(&layer.q, &y, pool), project(&layer.k, &y, pool));
        let v = project(&layer.v, &y, pool);
        self.rotate(&mut q, shape.heads, false);
        self.rotate(&mut k, shape.kv_heads, false);
        let mut attended = pool.rows(n, layer.q.out);
        let mut log_sums = pool.rows(n, shape.heads);
        attention::forward(&self.rows.segments, shape, &q, &k, &v, &mut attended, &mut log_sums);
        let mut x2 = pool.rows(n, d);
        self.add(x, &attended, &layer.o, (index, 0), &mut x2, pool);
        rms_norm::forward(&x2, &layer.mlp_norm.numbers.as_f32(), self.eps(), &mut y);
        let (gate, up) = (project(&layer.gate, &y, pool), project(&layer.up, &y, pool));
        let mut s = pool.rows(n, layer.down.width);
        // The forward does not keep this product: it costs less to compute than to store.
        swiglu::forward(&gate, &up, &mut s);
        self.add(&x2, &s, &layer.down, (index, 1), &mut y, pool);
        pool.give(s);
        (y, LayerValues { q, k, v, attended, log_sums, x2, gate, up })
    }

    /// Computes `out = base + dropout(x W^T)`.
    fn add(
        &self,
        base: &[f32],
        x: &[f32],
        linear: &Linear,
        (layer, part): (usize, usize),
        out: &mut [f32],
        pool: &mut Pool,
    ) {
        out.copy_from_slice(base);
        if self.dropout.rate == 0. {
            linear.forward(x, out, true);
        } else {
            let mut more = pool.rows(self.n(), self.d());
            linear.forward(x, &mut more, false);
            self.drop(layer, part, &mut more);
            out.iter_mut().zip(&more).for_each(|(o, x)| *o += x);
            pool.give(more);
        }
    }

    /// Returns the derivatives of a layer's addend, given those of the sum. Uses `work` if numbers were
    /// dropped.
    fn dropped<'b>(&self, slopes: &'b [f32], (layer, part): (usize, usize), work: &'b mut [f32]) -> &'b [f32] {
        if self.dropout.rate == 0. {
            return slopes;
        }
        work.copy_from_slice(slopes);
        self.drop(layer, part, work);
        work
    }

    /// Returns a layer's buffers to the pool.
    fn release(inner: LayerValues, pool: &mut Pool) {
        let LayerValues { q, k, v, attended, log_sums, x2, gate, up } = inner;
        for buffer in [q, k, v, attended, log_sums, x2, gate, up] {
            pool.give(buffer);
        }
    }

    /// Computes the states that predict a target, before and after the last norm.
    fn last(&self, x: &[f32], pool: &mut Pool) -> Result<(Vec<f32>, Vec<f32>)> {
        let (d, from) = (self.d(), &self.rows.from);
        let (mut gathered, mut normed) = (pool.rows(from.len(), d), pool.rows(from.len(), d));
        for (to, row) in gathered.chunks_exact_mut(d).zip(from) {
            to.copy_from_slice(&x[*row as usize * d..][..d]);
        }
        rms_norm::forward(&gathered, &self.plain.norm.numbers.as_f32(), self.eps(), &mut normed);
        Ok((gathered, normed))
    }

    fn head<'b>(&'b self, hidden: &'b [f32]) -> log_prob::LogProbRows<'b> {
        let head = self.plain.head.as_ref().unwrap_or(&self.plain.embed);
        log_prob::LogProbRows { hidden, head: head.numbers.slice(), targets: &self.rows.targets, d: self.d() }
    }

    /// Backward pass of a layer: replaces `slopes`, the derivatives of its result, with those of its input.
    fn backward(
        &self,
        index: usize,
        x: &[f32],
        inner: LayerValues,
        slopes: &mut [f32],
        to: &mut GradientSink,
    ) -> Result<()> {
        let layer = &self.plain.layers[index];
        let (n, d, shape, mlp) = (self.n(), self.d(), self.shape(), layer.down.width);
        let LayerValues { q, k, v, attended: result, log_sums, x2, mut gate, mut up } = inner;
        let (mut y, mut dy) = (to.pool.rows(n, d), to.pool.rows(n, d));
        let plus = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(to, x)| *to += x);

        // The MLP.
        let (mut s, mut ds) = (to.pool.rows(n, mlp), to.pool.rows(n, mlp));
        swiglu::forward(&gate, &up, &mut s);
        // The mask is drawn from the rows' keys again, so it is the mask of the forward.
        let added = self.dropped(slopes, (index, 1), &mut dy);
        layer.down.backward(&s, added, &mut ds, false, to)?;
        // From here on, `gate` and `up` hold their own gradients.
        swiglu::backward(&mut gate, &mut up, &ds);
        to.pool.give(s);
        to.pool.give(ds);
        rms_norm::forward(&x2, &layer.mlp_norm.numbers.as_f32(), self.eps(), &mut y);
        layer.gate.backward(&y, &gate, &mut dy, false, to)?;
        // Both products read the same rows, so their gradients add up in one buffer.
        layer.up.backward(&y, &up, &mut dy, true, to)?;
        layer.mlp_norm.norm_backward(&x2, self.eps(), &mut dy, to)?;
        // The residual connection passes the slopes through unchanged.
        plus(slopes, &dy);
        for buffer in [gate, up, x2] {
            to.pool.give(buffer);
        }

        // The attention.
        let mut attended = to.pool.rows(n, layer.o.width);
        let added = self.dropped(slopes, (index, 0), &mut dy);
        layer.o.backward(&result, added, &mut attended, false, to)?;
        let forward = attention::Forward { q: &q, k: &k, v: &v, y: &result, log_sums: &log_sums };
        let [mut dq, mut dk, dv] = attention::backward(&self.rows.segments, shape, forward, &attended);
        for buffer in [attended, q, k, v, result, log_sums] {
            to.pool.give(buffer);
        }
        // The transpose of a rotation is the rotation by the opposite angle.
        self.rotate(&mut dq, shape.heads, true);
        self.rotate(&mut dk, shape.kv_heads, true);
        rms_norm::forward(x, &layer.attention_norm.numbers.as_f32(), self.eps(), &mut y);
        layer.q.backward(&y, &dq, &mut dy, false, to)?;
        // q, k and v read the same rows too.
        layer.k.backward(&y, &dk, &mut dy, true, to)?;
        layer.v.backward(&y, &dv, &mut dy, true, to)?;
        layer.attention_norm.norm_backward(x, self.eps(), &mut dy, to)?;
        plus(slopes, &dy);
        to.pool.give(y);
        to.pool.give(dy);
        Ok(())
    }
}

impl FusedTape<'_> {
    pub(super) fn backward(self, slopes: &[f32], gradients: &mut Gradients, pool: &mut Pool) -> Result<()> {
        let mut to = GradientSink { gradients, pool };
        let FusedTape { pass, mut layers, last: (gathered, normed), log_sums, logits } = self;
        let d = pass.d();
        let mut to_last = to.pool.rows(gathered.len() / d, d);
        {
            let head = pass.plain.head.as_ref().unwrap_or(&pass.plain.embed);
            let to_head = match &head.name {
                Some(name) => Some(to.gradients.numbers(name, head.numbers.len(), to.pool)?),
                None => None,
            };
            pass.head(&normed).backward(logits, &log_sums, slopes, Some(&mut to_last), to_head);
        }
        pass.plain.norm.norm_backward(&gathered, pass.eps(), &mut to_last, &mut to)?;
        let mut slopes = to.pool.rows(pass.n(), d);
        slopes.fill(0.);
        // A row may predict several targets, so the slopes are added and not copied.
        for (from, row) in to_last.chunks_exact(d).zip(&pass.rows.from) {
            slopes[*row as usize * d..][..d].iter_mut().zip(from).for_each(|(to, x)| *to += x);
        }
        for buffer in [to_last, gathered, normed] {
            to.pool.give(buffer);
        }
        // Popped, so that a layer's activations are free before the previous layer's are recomputed.
        while let Some((x, inner)) = layers.pop() {
            let index = layers.len();
            let inner = match inner {
                Some(inner) => inner,
                None => {
                    let (out, inner) = pass.forward(index, &x, to.pool);
                    to.pool.give(out);
                    inner
                }
            };
            pass.backward(index, &x, inner, &mut slopes, &mut to)?;
            to.pool.give(x);
        }
        if let Some(name) = &pass.plain.embed.name {
            // With a tied output matrix, the head has begun this gradient.
            let sum = to.gradients.zeroed(name, pass.plain.embed.numbers.len(), to.pool)?;
            // A token that occurs several times adds to the same row.
            for (from, id) in slopes.chunks_exact(d).zip(&pass.rows.ids) {
                sum[*id as usize * d..][..d].iter_mut().zip(from).for_each(|(to, x)| *to += x);
            }
        }
        to.pool.give(slopes);
        Ok(())
    }
}
