// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/activation.hpp>
#include <diffeo/autodiff/ops/affine.hpp>
#include <diffeo/autodiff/ops/columns.hpp>
#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/autodiff/ops/reduce.hpp>
#include <diffeo/autodiff/ops/row_dot.hpp>
#include <diffeo/autodiff/ops/slope.hpp>
#include <diffeo/autodiff/ops/surrogate.hpp>
#include <diffeo/autodiff/ops/triangular.hpp>
#include <diffeo/autodiff/tiles.hpp>
#include <diffeo/continuous/recipes.hpp>
#include <diffeo/data/column_checks.hpp>
#include <diffeo/data/csv.hpp>
#include <diffeo/data/npy.hpp>
#include <diffeo/data/toy2d.hpp>
#include <diffeo/layers/evaluate.hpp>
#include <diffeo/layers/recipes.hpp>
#include <diffeo/layers/residual_inverse.hpp>
#include <diffeo/math/matmul.hpp>
#include <diffeo/math/random_fill.hpp>
#include <diffeo/math/sample_engine.hpp>
#include <diffeo/nn/concat_squash.hpp>
#include <diffeo/nn/context.hpp>
#include <diffeo/nn/context_shift.hpp>
#include <diffeo/nn/jacobian.hpp>
#include <diffeo/nn/mlp.hpp>
#include <diffeo/nn/spectral_norm.hpp>
#include <diffeo/ode/solve_on_tape.hpp>
#include <diffeo/training/trainer_core.hpp>
#include <diffeo/transport/assignment.hpp>
#include <diffeo/transport/sinkhorn.hpp>

/// The templates that the compiled form of the library holds, for float and double. Where DIFFEO_COMPILED is defined,
/// as the CMake target diffeo::compiled does, they are declared here and not compiled again in each source. Everything
/// else, and these templates for other types, compiles as without it. Each list takes the words that begin an explicit
/// instantiation, `template` in the sources of the library and `extern template` elsewhere, and a scalar.

#define DIFFEO_COMPILED_MATH(TEMPLATE, S)                                                       \
  TEMPLATE void math::copy(View<S>, View<const S>);                                             \
  TEMPLATE void math::fill(View<S>, S);                                                         \
  TEMPLATE void math::broadcast_to(View<S>, View<const S>);                                     \
  TEMPLATE void math::sum_to(View<S>, bool, View<const S>);                                     \
  TEMPLATE void math::product(View<S>, View<const S>, math::Strided<S>, const S*, math::Start); \
  TEMPLATE void math::product_of_transposed(View<S>, bool, View<const S>, View<const S>);       \
  TEMPLATE S math::detail::factor(S*, Index*, Index);                                           \
  TEMPLATE void fill_uniform(View<S>, std::uint64_t, std::uint64_t, Index);                     \
  TEMPLATE void fill_normal(View<S>, std::uint64_t, std::uint64_t, Index);                      \
  TEMPLATE S uniform(std::uint64_t, std::uint64_t, Index, Index);                               \
  TEMPLATE S normal(std::uint64_t, std::uint64_t, Index, Index);                                \
  TEMPLATE PhiloxEngine detail::sample_engine(std::uint64_t, View<const S>, Index);             \
  TEMPLATE void detail::draw_signs(PhiloxEngine&, View<S>, Index);                              \
  TEMPLATE void detail::draw_normal(PhiloxEngine&, View<S>, Index);

#define DIFFEO_COMPILED_OPS(TEMPLATE, S)                                                                  \
  TEMPLATE Var<S> operator+(Var<S>, Var<S>);                                                              \
  TEMPLATE Var<S> operator-(Var<S>, Var<S>);                                                              \
  TEMPLATE Var<S> operator*(Var<S>, Var<S>);                                                              \
  TEMPLATE Var<S> operator/(Var<S>, Var<S>);                                                              \
  TEMPLATE Var<S> operator-(Var<S>);                                                                      \
  TEMPLATE Var<S> operator+(Var<S>, S);                                                                   \
  TEMPLATE Var<S> operator*(Var<S>, S);                                                                   \
  TEMPLATE Var<S> operator/(S, Var<S>);                                                                   \
  TEMPLATE Var<S> square(Var<S>);                                                                         \
  TEMPLATE Var<S> sqrt(Var<S>);                                                                           \
  TEMPLATE Var<S> exp(Var<S>);                                                                            \
  TEMPLATE Var<S> log(Var<S>);                                                                            \
  TEMPLATE Var<S> log1p(Var<S>);                                                                          \
  TEMPLATE Var<S> sin(Var<S>);                                                                            \
  TEMPLATE Var<S> cos(Var<S>);                                                                            \
  TEMPLATE Var<S> step(Var<S>);                                                                           \
  TEMPLATE Var<S> abs(Var<S>);                                                                            \
  TEMPLATE Var<S> tanh(Var<S>);                                                                           \
  TEMPLATE Var<S> sigmoid(Var<S>);                                                                        \
  TEMPLATE Var<S> softplus(Var<S>);                                                                       \
  TEMPLATE Var<S> log_sigmoid(Var<S>);                                                                    \
  TEMPLATE Var<S> relu(Var<S>);                                                                           \
  TEMPLATE Var<S> elu(Var<S>);                                                                            \
  TEMPLATE Var<S> selu(Var<S>);                                                                           \
  TEMPLATE Var<S> silu(Var<S>);                                                                           \
  TEMPLATE Var<S> lip_swish(Var<S>);                                                                      \
  TEMPLATE Var<S> sum_cols(Var<S>);                                                                       \
  TEMPLATE Var<S> sum_rows(Var<S>);                                                                       \
  TEMPLATE Var<S> sum(Var<S>);                                                                            \
  TEMPLATE Var<S> norm_cols(Var<S>);                                                                      \
  TEMPLATE Var<S> max_cols(Var<S>);                                                                       \
  TEMPLATE Var<S> transposed(Var<S>);                                                                     \
  TEMPLATE Var<S> clamp(Var<S>, S, S);                                                                    \
  TEMPLATE Var<S> leaky_relu(Var<S>, S);                                                                  \
  TEMPLATE Var<S> scaled_tanh(Var<S>, S, S);                                                              \
  TEMPLATE Var<S> scale_shift(Var<S>, Var<S>, Var<S>);                                                    \
  TEMPLATE Var<S> unshift_scale(Var<S>, Var<S>, Var<S>);                                                  \
  TEMPLATE Var<S> zeros(Var<S>, Index);                                                                   \
  TEMPLATE Var<S> activate(Activation, const Var<S>&);                                                    \
  TEMPLATE Var<S> detail::repeated(Var<S>, math::Shape);                                                  \
  TEMPLATE Var<S> detail::sum_to(Var<S>, Index, Index);                                                   \
  TEMPLATE Var<S> cols(Var<S>, Index, Index);                                                             \
  TEMPLATE Var<S> take(Var<S>, std::span<const Index>);                                                   \
  TEMPLATE Var<S> merge(Var<S>, std::span<const Index>, Var<S>, std::span<const Index>);                  \
  TEMPLATE Var<S> concat(const Var<S>&, const Var<S>&);                                                   \
  TEMPLATE Var<S> row_dot(Var<S>, Var<S>);                                                                \
  TEMPLATE Var<S> with_gradient_of(Var<S>, Var<S>);                                                       \
  TEMPLATE Var<S> log_sum_exp(const Var<S>&);                                                             \
  TEMPLATE Var<S> lower_triangular(Var<S>, Var<S>);                                                       \
  TEMPLATE Var<S> solve_lower(Var<S>, const Var<S>&);                                                     \
  TEMPLATE Var<S> detail::product_op(Var<S>, Var<S>, bool, Var<S>, Activation);                           \
  TEMPLATE Var<S> affine(Var<S>, const Var<S>&, const Var<S>&, Activation);                               \
  TEMPLATE Var<S> affine(Var<S>, const Array<S>&, const Array<S>&, Activation);                           \
  TEMPLATE Var<S> affine(Var<S>, const Array<S>&, const Var<S>&, Activation);                             \
  TEMPLATE Var<S> linear(Var<S>, const Var<S>&);                                                          \
  TEMPLATE Var<S> linear(Var<S>, const Array<S>&);                                                        \
  TEMPLATE Var<S> matmul(Var<S>, const Var<S>&);                                                          \
  TEMPLATE WithSlope<S> activate_with_slope(Activation, Var<S>);                                          \
  TEMPLATE WithSlope<S> affine_with_slope(Var<S>, const Var<S>&, const Var<S>&, Activation);              \
  TEMPLATE WithSlope<S> affine_with_slope(Var<S>, const Array<S>&, const Array<S>&, Activation);          \
  TEMPLATE void add_grad_sum(Var<S>, View<const S>);                                                      \
  TEMPLATE void for_each_tile(Index, Index, const Execution&, FunctionRef<void(Tape<S>&, Index, Index)>); \
  TEMPLATE void for_each_tile(Index, const Execution&, FunctionRef<void(Tape<S>&, Index, Index)>);        \
  TEMPLATE Var<S> activate<Activation::tanh>(Var<S>);                                                     \
  TEMPLATE Var<S> activate<Activation::relu>(Var<S>);                                                     \
  TEMPLATE Var<S> activate<Activation::elu>(Var<S>);                                                      \
  TEMPLATE Var<S> activate<Activation::selu>(Var<S>);                                                     \
  TEMPLATE Var<S> activate<Activation::silu>(Var<S>);                                                     \
  TEMPLATE Var<S> activate<Activation::lip_swish>(Var<S>);                                                \
  TEMPLATE Var<S> activate<Activation::softplus>(Var<S>);                                                 \
  TEMPLATE Var<S> activate<Activation::sin>(Var<S>);

#define DIFFEO_COMPILED_NN(TEMPLATE, S)                                                                            \
  TEMPLATE void initialise(Array<S>&, Initialisation, std::uint64_t, std::uint64_t);                               \
  TEMPLATE Linear<S> make_linear(Index, Index, Initialisation, std::uint64_t, std::uint64_t);                      \
  TEMPLATE Mlp<S> make_mlp(Index, Index, const MlpOptions&, std::uint64_t, std::uint64_t, Index);                  \
  TEMPLATE ConcatSquash<S> make_concat_squash(Index, Index, Initialisation, std::uint64_t, std::uint64_t);         \
  TEMPLATE ContextShift<S> make_context_shift(Index, Index, const MlpOptions&, std::uint64_t, std::uint64_t);      \
  TEMPLATE void require_context(const char*, const Var<S>&, Index, Index);                                         \
  TEMPLATE MultiDual<S> detail::hidden_product(const detail::HiddenInput<S>&, Activation, Var<S>, Var<S>);         \
  TEMPLATE Var<S> detail::identity_matrix(Tape<S>&, Index);                                                        \
  TEMPLATE Var<S> value_of(const MultiDual<S>&);                                                                   \
  TEMPLATE Var<S> log_det_identity_plus(const MultiDual<S>&);                                                      \
  TEMPLATE MultiDual<S> scale_shift(const MultiDual<S>&, Var<S>, Var<S>);                                          \
  TEMPLATE Var<S> trace_of(const MultiDual<S>&);                                                                   \
  TEMPLATE Var<S> squared_norm_of(const MultiDual<S>&);                                                            \
  TEMPLATE SpectralNormReport detail::power_iteration(const Array<S>&, Array<S>&, Array<S>&, double, long);        \
  TEMPLATE double detail::spectral_norm_bound(const Array<S>&);                                                    \
  TEMPLATE SpectralMlp<S> make_spectral_mlp(Index, Index, const MlpOptions&, double, std::uint64_t, std::uint64_t, \
                                            Index);

#define DIFFEO_COMPILED_LAYERS(TEMPLATE, S)                                                                           \
  TEMPLATE Transformed<Var<S>> detail::planar_chain<false>(Var<S>, const detail::PlanarParameters<S>*, std::size_t,   \
                                                           detail::PlanarKind);                                       \
  TEMPLATE Transformed<Var<S>> detail::planar_chain<true>(Var<S>, const detail::PlanarParameters<S>*, std::size_t,    \
                                                          detail::PlanarKind);                                        \
  TEMPLATE void detail::sum_series(const PowerSeriesLogDet&, const Linearised<S>&, View<const S>, const Pass<S>&,     \
                                   Index, const detail::SeriesEstimate<S>&);                                          \
  TEMPLATE void detail::sum_series(const RouletteLogDet&, const Linearised<S>&, View<const S>, const Pass<S>&, Index, \
                                   const detail::SeriesEstimate<S>&);                                                 \
  TEMPLATE Var<S> detail::context_of_tile(Tape<S>&, const Array<S>&, Index, Index);                                   \
  TEMPLATE Pass<S> detail::pass_for(Tape<S>&, const Array<S>*, Index, Index);                                         \
  TEMPLATE void detail::transform_tiles(const char*, Transformed<Array<S>>&, Index, const Execution&,                 \
                                        FunctionRef<Transformed<Var<S>>(Tape<S>&, Index, Index)>);                    \
  TEMPLATE Planar<S> make_planar(Index, Activation, std::uint64_t, std::uint64_t, Index, const MlpOptions&);          \
  TEMPLATE Radial<S> make_radial(Index, std::uint64_t, std::uint64_t, Index, const MlpOptions&);                      \
  TEMPLATE Residual<S> make_residual(Index, const ResidualOptions&, std::uint64_t, std::uint64_t);                    \
  TEMPLATE RealNvp<S> real_nvp(Index, const CouplingFlowOptions&);                                                    \
  TEMPLATE Nice<S> nice(Index, const CouplingFlowOptions&);                                                           \
  TEMPLATE PlanarFlow<S> planar(Index, const PlanarFlowOptions&);                                                     \
  TEMPLATE RadialFlow<S> radial(Index, const RadialFlowOptions&);                                                     \
  TEMPLATE ResidualFlow<S> residual(Index, const ResidualFlowOptions&);                                               \
  TEMPLATE CnfFlow<S> cnf(Index, const CnfFlowOptions&);                                                              \
  TEMPLATE MeanFlow<S> mean_flow(Index, const CnfFlowOptions&);

#define DIFFEO_COMPILED_ODE(TEMPLATE, S)                                                                           \
  TEMPLATE void ode::detail::advance(Index, Index, S*, const S*, const S*, const ode::detail::Combination<S>&,     \
                                     const S* const*);                                                             \
  TEMPLATE void ode::detail::error_norm<ode::RmsNorm>(Index, Index, Index, S, S, S*, const S*, const S*, const S*, \
                                                      const ode::detail::Combination<S>&, const S* const*);        \
  TEMPLATE void ode::detail::combine(View<S>, View<const S>, const S*, const ode::detail::Combination<S>&,         \
                                     const View<const S>*);                                                        \
  TEMPLATE Var<S> ode::detail::combined(Var<S>, View<const S>, const ode::detail::Combination<S>&,                 \
                                        const std::array<Var<S>, ode::max_stages>&);

#define DIFFEO_COMPILED_DATA(TEMPLATE, S)                                                                              \
  TEMPLATE Array<S> toy2d::sample(std::string_view, Index, std::uint64_t);                                             \
  TEMPLATE void require_finite_columns(const std::string&, const Array<S>&, std::span<const std::string>);             \
  TEMPLATE void require_resolved_columns(const char*, const Array<S>&, std::span<const std::string>, ConstantColumns); \
  TEMPLATE void detail::require_resolved_as<float>(const char*, const Array<S>&, std::span<const std::string>,         \
                                                   ConstantColumns);                                                   \
  TEMPLATE void detail::require_resolved_as<double>(const char*, const Array<S>&, std::span<const std::string>,        \
                                                    ConstantColumns);                                                  \
  TEMPLATE std::vector<std::string> repetition_warnings(const Array<S>&, std::span<const std::string>);                \
  TEMPLATE CsvData<S> parse_csv<S>(std::string_view, const CsvOptions&, std::string);                                  \
  TEMPLATE CsvData<S> read_csv<S>(const std::string&, const CsvOptions&);                                              \
  TEMPLATE Array<S> read_npy<S>(const std::string&);

#define DIFFEO_COMPILED_TRAINING(TEMPLATE, S) TEMPLATE class detail::TrainerCore<S>;

#ifdef DIFFEO_COMPILED
namespace diffeo::inline DIFFEO_ISA {
DIFFEO_COMPILED_MATH(extern template, float)
DIFFEO_COMPILED_MATH(extern template, double)
DIFFEO_COMPILED_OPS(extern template, float)
DIFFEO_COMPILED_OPS(extern template, double)
DIFFEO_COMPILED_NN(extern template, float)
DIFFEO_COMPILED_NN(extern template, double)
DIFFEO_COMPILED_LAYERS(extern template, float)
DIFFEO_COMPILED_LAYERS(extern template, double)
DIFFEO_COMPILED_ODE(extern template, float)
DIFFEO_COMPILED_ODE(extern template, double)
DIFFEO_COMPILED_DATA(extern template, float)
DIFFEO_COMPILED_DATA(extern template, double)
DIFFEO_COMPILED_TRAINING(extern template, float)
DIFFEO_COMPILED_TRAINING(extern template, double)
}  // namespace diffeo::inline DIFFEO_ISA
#endif
