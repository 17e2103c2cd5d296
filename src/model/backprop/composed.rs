//! The pass on candle's graph: for every device and type, and the reference for the fused pass.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::{ForwardOptions, Gradients, PackedRows};
use crate::model::nn::llama::Dropped;
use crate::model::nn::llama::Llama;
use crate::model::ops::{Packed, log_prob_of};

pub(super) struct ComposedTape<'a> {
    llama: &'a Llama,
    rows: &'a PackedRows,
    options: ForwardOptions,
    kept: LayerInputs,
}

enum LayerInputs {
    /// The log-probabilities with their whole graph.
    Graph(Tensor),
    /// The input of each layer, and the output of the last.
    Inputs(Vec<Tensor>),
}

fn attention(rows: &PackedRows) -> Packed {
    Packed::new(rows.segments.clone())
}

fn dropped<'a>(llama: &Llama, rows: &'a PackedRows, options: ForwardOptions) -> Option<Dropped<'a>> {
    (options.dropout.rate > 0. || llama.drops()).then_some(Dropped { dropout: options.dropout, keys: &rows.keys })
}

/// Computes log-probabilities from the last layer's states; in f64 on the CPU.
fn finish(llama: &Llama, rows: &PackedRows, x: &Tensor) -> Result<Tensor> {
    let x = x.index_select(&Tensor::new(rows.from.as_slice(), llama.device())?, 0)?;
    log_prob_of(&llama.normed(&x)?, llama.head()?, &rows.targets)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)
}

fn graph(llama: &Llama, rows: &PackedRows, dropped: Option<Dropped<'_>>) -> Result<Tensor> {
    let x = llama.states(&rows.ids, &rows.positions, &mut attention(rows), dropped)?;
    finish(llama, rows, &x)
}

fn numbers(log_probs: &Tensor) -> Result<Vec<f32>> {
    log_probs.to_dtype(DType::F32)?.to_vec1()
}

pub(super) fn log_probs(llama: &Llama, rows: &PackedRows) -> Result<Vec<f32>> {
    numbers(&graph(llama, rows, None)?)
}

pub(super) fn record<'a>(
    llama: &'a Llama,
    rows: &'a PackedRows,
    options: ForwardOptions,
) -> Result<(Vec<f32>, ComposedTape<'a>)> {
    let (log_probs, kept) = if options.checkpoint {
        let rope = llama.angles(&rows.positions)?;
        let mut inputs = vec![llama.embedded(&rows.ids)?.detach()];
        for layer in 0..llama.config().num_hidden_layers {
            let out = llama.layer(layer, &inputs[layer], &rope, &mut attention(rows), dropped(llama, rows, options))?;
            // Detached, so that the layer's graph is freed.
            inputs.push(out.detach());
        }
        (finish(llama, rows, &inputs[inputs.len() - 1])?, LayerInputs::Inputs(inputs))
    } else {
        let log_probs = graph(llama, rows, dropped(llama, rows, options))?;
        (log_probs.clone(), LayerInputs::Graph(log_probs))
    };
    Ok((numbers(&log_probs)?, ComposedTape { llama, rows, options, kept }))
}

impl ComposedTape<'_> {
    pub(super) fn backward(self, slopes: &[f32], gradients: &mut Gradients) -> Result<()> {
        let slopes = Tensor::new(slopes, &Device::Cpu)?.to_dtype(DType::F64)?;
        let inputs = match self.kept {
            LayerInputs::Graph(log_probs) => return add(self.llama, &log_probs, &slopes, None, gradients).map(drop),
            LayerInputs::Inputs(inputs) => inputs,
        };
        let (llama, rows) = (self.llama, self.rows);
        let rope = llama.angles(&rows.positions)?;
        let mut slopes = slopes;
        for (i, input) in inputs.iter().enumerate().rev() {
            // candle returns gradients of variables only.
            let x = Var::from_tensor(input)?;
            let out = if i + 1 == inputs.len() {
                finish(llama, rows, &x)?
            } else {
                llama.layer(i, &x, &rope, &mut attention(rows), dropped(llama, rows, self.options))?
            };
            let Some(back) = add(llama, &out, &slopes, Some(&x), gradients)? else {
                candle_core::bail!("no gradient reaches the input of layer {i}")
            };
            slopes = back;
        }
        add(llama, &llama.embedded(&rows.ids)?, &slopes, None, gradients).map(drop)
    }
}

/// Runs the backward pass from `out` with its derivatives. Adds the variables' gradients and returns the
/// derivatives of `input`.
fn add(
    llama: &Llama,
    out: &Tensor,
    slopes: &Tensor,
    input: Option<&Var>,
    to: &mut Gradients,
) -> Result<Option<Tensor>> {
    // The derivative of this sum by `out` is `slopes`, so its gradients are those of the loss.
    let mut store = (out * slopes)?.sum_all()?.backward()?;
    for (name, var) in llama.variables() {
        if let Some(new) = store.remove(var) {
            to.add(name, new)?;
        }
    }
    Ok(input.and_then(|x| store.remove(x)))
}
