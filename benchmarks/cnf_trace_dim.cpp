// SPDX-License-Identifier: MIT

#include <diffeo/continuous/divergence.hpp>
#include <diffeo/continuous/mlp_field.hpp>

#include "machine.hpp"

/// Velocity and exact divergence of a field of (64, 64) elu units at 512 points, by the closed form, whose cost grows
/// with D in the first and the last layer alone; beside it the same by tangents and with one probe of Hutchinson's
/// estimate.
namespace diffeo::bench {
namespace {

constexpr Index points = 512, block = 64, width = 64;

template <Real S>
void evaluate(benchmark::State& state, Index dim, const Divergence& divergence) {
  const auto field = make_mlp_field<S>(dim, {.activation = Activation::elu, .last_scale = 1});
  const Array<S> x = Array<S>::Random(points, dim), t = Array<S>::Random(points, 1).abs();
  Tape<S> tape;
  const auto prepared = prepare_field(tape, field, divergence);
  Array<S> noise(points, prepared.noise_columns());
  prepared.draw_noise(tape, 0, view(x), view(noise));
  const auto rows = [](const Array<S>& of, Index first) {
    return View<const S>{of.data() + first, block, of.cols(), of.rows()};
  };
  const auto mark = tape.mark();
  const double seconds = time_iterations(state, [&] {
    for (Index first = 0; first < points; first += block) {
      tape.release(mark);
      const FieldValue<S> value =
          prepared(tape.constant(rows(t, first)), tape.constant(rows(x, first)), tape.constant(rows(noise, first)));
      touch(tape.mutable_value(value.velocity).data);
      touch(tape.mutable_value(value.divergence).data);
    }
  });
  // As the closed form needs them: the products of the layers and one more of the hidden size.
  Work work;
  work.flops = product_flops(1, dim + 1, width) + 2 * product_flops(1, width, width) + product_flops(1, width, dim);
  work.activations = 2 * width;
  set_counters<S>(state, work, points, false, 1, seconds);
}

template <Real S>
void add() {
  const auto with = [](const std::string& name, Index dim, const Divergence& divergence) {
    add_benchmark<S>(name + "/" + std::to_string(dim), 1, benchmark::kMicrosecond,
                     [=](benchmark::State& state) { evaluate<S>(state, dim, divergence); });
  };
  for (const Index dim : {2, 8, 43, 63}) {
    with("cnf_trace_dim", dim, ExactDivergence{});
    with("cnf_trace_dim_tangents", dim, ExactDivergence{ExactDivergence::Method::tangents});
    with("cnf_trace_dim_hutchinson", dim, HutchinsonDivergence{});
  }
}

[[maybe_unused]] const bool added = (add<float>(), add<double>(), true);

}  // namespace
}  // namespace diffeo::bench
