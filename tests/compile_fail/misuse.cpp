// SPDX-License-Identifier: MIT
// Mistakes that the library explains in a line, each behind a macro of its own.
#include <diffeo/diffeo.hpp>

using namespace diffeo;

struct Part {
  Array<float> weight;
};

// Looks at the minibatch, but has no StepState to keep what it sees in.
struct Careless {
  Index size() const { return 4; }
  void begin_step(int&, const Minibatch&) const {}
  template <class Model>
  Var<float> loss(const Model&, Tape<float>& tape, const Minibatch& batch) const {
    return tape.constant(Array<float>::Zero(batch.count, 1));
  }
};

// Its validation_loss asks for a state that validation does not have.
struct Careful {
  Index size() const { return 4; }
  template <class Model>
  Var<float> loss(const Model&, Tape<float>& tape, const Minibatch& batch) const {
    return tape.constant(Array<float>::Zero(batch.count, 1));
  }
  Var<float> validation_loss(const TransformedDistribution<StandardNormal<float>, Planar<float>>&, Tape<float>& tape,
                             const Minibatch& batch, int) const {
    return tape.constant(Array<float>::Zero(batch.count, 1));
  }
};

int main() {
  [[maybe_unused]] Part part;
  TransformedDistribution model(StandardNormal<float>(2), make_planar<float>(2));
#if defined(FIELD_WITHOUT_NAME)
  fields("weight", part.weight, part.weight);
#elif defined(TEMPORARY_FIELD)
  fields("weight", Array<float>(part.weight));
#elif defined(SETTING_OF_TEXTS)
  detail::setting_value(std::vector<std::string>{"a"});
#elif defined(BEGIN_STEP_WITHOUT_STATE)
  fit(model, Careless{});
#elif defined(SETTING_OF_A_STRUCTURE)
  detail::setting_value(Mask::keep_even(2));
#elif defined(VALIDATION_LOSS_WITH_STATE)
  fit(model, Careful{});
#elif defined(BASE_OF_OTHER_SCALAR)
  TransformedDistribution mixed(StandardNormal<double>(2), make_planar<float>(2));
#endif
}
