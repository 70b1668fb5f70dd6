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
#elif defined(BASE_OF_OTHER_SCALAR)
  TransformedDistribution mixed(StandardNormal<double>(2), make_planar<float>(2));
#endif
}
