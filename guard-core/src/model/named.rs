//! The parameters of a model by name.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use super::linear::Linear;
use super::llama::Llama;

/// A parameter of a model: what is known of it beside its values.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// What its gradient is filed under. It differs from one loaded model to the next.
    pub id: ParamId,
    /// Its name on the hub; adapters are named as in PEFT, without the prefix.
    pub name: String,
    /// Its dimensions, outputs first.
    pub shape: Vec<usize>,
    /// Whether training changes it: of what is not frozen, adapters where there are some, else
    /// everything.
    pub trained: bool,
}

impl Llama {
    /// All parameters, in the order of the forward path.
    #[must_use]
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut shapes = Shapes(HashMap::new());
        self.visit(&mut shapes);
        let adapters = self.has_adapters();
        let known = |Named { id, name, layer }: Named| {
            let shape = shapes.0.remove(&id)?;
            let frozen = layer.is_some_and(|layer| layer < self.frozen_blocks);
            let trained = !frozen && (!adapters || is_adapter(&name));
            Some(Parameter { id, name, shape, trained })
        };
        self.names().into_iter().filter_map(known).collect()
    }

    /// Lets `read` see the values of each parameter, row by row.
    pub fn visit_parameters(&self, read: &mut dyn FnMut(&Parameter, Tensor<1>)) {
        struct Visit<'a>(HashMap<ParamId, Parameter>, &'a mut dyn FnMut(&Parameter, Tensor<1>));
        impl ModuleVisitor for Visit<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(parameter) = self.0.get(&param.id) {
                    (self.1)(parameter, param.val().reshape([-1]));
                }
            }
        }
        self.visit(&mut Visit(self.by_id(), read));
    }

    /// The model with each parameter changed. `change` gets the values row by row, as the only
    /// one who holds them, and returns as many.
    #[must_use]
    pub fn map_parameters(
        self,
        change: &mut dyn FnMut(&Parameter, Tensor<1>) -> Tensor<1>,
    ) -> Self {
        struct Map<'a>(
            HashMap<ParamId, Parameter>,
            &'a mut dyn FnMut(&Parameter, Tensor<1>) -> Tensor<1>,
        );
        impl ModuleMapper for Map<'_> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let Some(parameter) = self.0.get(&param.id) else { return param };
                param.map(|values| {
                    let shape = values.dims();
                    (self.1)(parameter, values.reshape([-1])).reshape(shape)
                })
            }
        }
        let by_id = self.by_id();
        self.map(&mut Map(by_id, change))
    }

    fn by_id(&self) -> HashMap<ParamId, Parameter> {
        self.parameters().into_iter().map(|parameter| (parameter.id, parameter)).collect()
    }

    fn names(&self) -> Vec<Named> {
        let outer = |id, name: &str, layer| Named { id, name: name.to_owned(), layer };
        // The embedding lies below the first block and is frozen with it.
        let mut names = vec![outer(self.embedding.weight.id, "model.embed_tokens.weight", Some(0))];
        for (layer, block) in self.blocks.iter().enumerate() {
            let mut add = |id, name: &str| {
                names.push(outer(id, &format!("model.layers.{layer}.{name}"), Some(layer)));
            };
            add(block.attention_norm.gamma.id, "input_layernorm.weight");
            for (projection, linear) in block.linears() {
                linear_names(linear, projection.path(), &mut add);
            }
            add(block.feed_forward_norm.gamma.id, "post_attention_layernorm.weight");
        }
        names.push(outer(self.norm.gamma.id, "model.norm.weight", None));
        names.extend(self.head.iter().map(|head| outer(head.weight.id, "lm_head.weight", None)));
        names
    }
}

/// A parameter's name, and its block if it belongs to one.
struct Named {
    id: ParamId,
    name: String,
    layer: Option<usize>,
}

fn linear_names(linear: &Linear, path: &str, add: &mut impl FnMut(ParamId, &str)) {
    add(linear.weight.id, &format!("{path}.weight"));
    if let Some(adapter) = &linear.adapter {
        add(adapter.a.id, &format!("{path}.lora_A.weight"));
        add(adapter.b.id, &format!("{path}.lora_B.weight"));
    }
}

fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
}

struct Shapes(HashMap<ParamId, Vec<usize>>);

impl ModuleVisitor for Shapes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id, param.val().dims().to_vec());
    }
}
