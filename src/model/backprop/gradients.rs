//! The gradients of one optimizer step, summed over its forwards.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::Pool;
use crate::model::ops::computed_in;

/// A gradient, in the shape of its weight.
pub enum Gradient {
    /// On the CPU, in memory that is reused by every step.
    Numbers(Vec<f32>),
    /// On the model's device.
    Tensor(Tensor),
}

/// The gradients of all variables that have received one.
#[derive(Default)]
pub struct Gradients {
    by_name: BTreeMap<String, Gradient>,
}

impl Gradients {
    /// Removes all gradients and returns their memory to the pool.
    pub fn clear(&mut self, pool: &mut Pool) {
        for gradient in std::mem::take(&mut self.by_name).into_values() {
            if let Gradient::Numbers(numbers) = gradient {
                pool.give(numbers);
            }
        }
    }

    /// Returns the gradient of a weight of `count` numbers, and whether it is fresh. A fresh gradient is
    /// not initialised: the caller must write all of its numbers.
    pub(super) fn numbers(&mut self, name: &str, count: usize, pool: &mut Pool) -> Result<(&mut [f32], bool)> {
        let fresh = !self.by_name.contains_key(name);
        if fresh {
            self.by_name.insert(name.to_owned(), Gradient::Numbers(pool.take(count, count)));
        }
        match self.by_name.get_mut(name) {
            Some(Gradient::Numbers(numbers)) => Ok((numbers, fresh)),
            _ => candle_core::bail!("the gradient of `{name}` is stored in two forms"),
        }
    }

    /// Like [`Gradients::numbers`], but a fresh gradient is filled with zeros.
    pub(super) fn zeroed(&mut self, name: &str, count: usize, pool: &mut Pool) -> Result<&mut [f32]> {
        let (numbers, fresh) = self.numbers(name, count, pool)?;
        if fresh {
            numbers.fill(0.);
        }
        Ok(numbers)
    }

    /// Adds a gradient from candle, which has its weight's type. Sums of several are f32, whatever the
    /// weight's type.
    pub(super) fn add(&mut self, name: &str, new: Tensor) -> Result<()> {
        // A sum in half precision would lose the small gradients of later forwards.
        let new = new.to_dtype(computed_in(new.dtype()))?;
        let sum = match self.by_name.remove(name) {
            None => new.contiguous()?,
            Some(Gradient::Tensor(old)) => (old + new)?,
            Some(Gradient::Numbers(_)) => candle_core::bail!("the gradient of `{name}` is stored in two forms"),
        };
        self.by_name.insert(name.to_owned(), Gradient::Tensor(sum));
        Ok(())
    }

    /// Returns the gradient of a weight, if it has one.
    pub fn get(&self, name: &str) -> Option<&Gradient> {
        self.by_name.get(name)
    }

    /// Iterates over all gradients with their weights' names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Gradient)> {
        self.by_name.iter()
    }
}

impl FromIterator<(String, Tensor)> for Gradients {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(all: I) -> Self {
        Self { by_name: all.into_iter().map(|(name, t)| (name, Gradient::Tensor(t))).collect() }
    }
}
