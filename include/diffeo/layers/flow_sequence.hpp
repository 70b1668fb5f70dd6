// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/ops/elementwise.hpp>
#include <diffeo/core/function_ref.hpp>
#include <diffeo/layers/flow.hpp>
#include <span>
#include <tuple>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

/// Applies one map after another and adds up their log-determinants. Values that nobody will differentiate give their
/// memory back after each map, so that evaluation stays in the first cache levels whatever the depth.
template <Traced X>
class Composition {
 public:
  using Scalar = typename X::Scalar;

  Composition(const X& x, const Pass<Scalar>& pass) : value_(x), pass_(pass) {}

  /// Applies map(value, pass), where `part` is the number of the map's layer.
  void then(std::size_t part, FunctionRef<Transformed<X>(const X&, const Pass<Scalar>&)> map) {
    const Pass<Scalar> pass = pass_.of_part(part);
    if constexpr (is_var<X>) {
      if (!recording_ && !value_.requires_grad()) return then_in_place(map, pass, part);
    }
    add(checked(map(value_, pass), part));
  }

  const X& value() const { return value_; }
  Transformed<X> result() const { return {value_, has_log_det_ ? log_det_ : zeros(value_, 1)}; }

 private:
  const Transformed<X>& checked(const Transformed<X>& y, std::size_t part) const {
    require_shapes(y, value_.rows(), value_.cols(), "flow sequence: layer ", part);
    return y;
  }

  void add(const Transformed<X>& y) {
    value_ = y.value;
    if constexpr (is_var<X>) {
      if (!y.log_det) return;  // values alone are wanted
    }
    log_det_ = has_log_det_ ? log_det_ + y.log_det : y.log_det;
    has_log_det_ = true;
  }

  // Two buffers for the value take turns; the log-determinant has one.
  void then_in_place(FunctionRef<Transformed<X>(const X&, const Pass<Scalar>&)> map, const Pass<Scalar>& pass,
                     std::size_t part)
    requires is_var<X>
  {
    auto& tape = value_.tape();
    if (!buffers_[0]) {
      for (X& buffer : buffers_) buffer = tape.make(value_.rows(), value_.cols(), false);
      total_ = zeros(value_, 1);
    }
    const auto mark = tape.mark();
    const std::size_t recorded = tape.size();
    const long penalties = pass.penalties ? pass.penalties->count() : 0;
    const Transformed<X> y = checked(map(value_, pass), part);
    // What was recorded, or is held by someone else, must keep its memory: a value that is constant may come with a
    // log-determinant that is not.
    if (y.value.requires_grad() || (y.log_det && y.log_det.requires_grad()) || tape.size() != recorded ||
        (pass.penalties && pass.penalties->count() != penalties)) {
      recording_ = true;
      if (has_log_det_) log_det_ = total_;
      return add(y);
    }
    X& next = buffers_[turn_];
    turn_ = 1 - turn_;
    math::copy(tape.mutable_value(next), y.value.value());
    if (y.log_det) {
      math::map(
          tape.mutable_value(total_), [](auto a, auto b) { return a + b; }, total_.value(), y.log_det.value());
      has_log_det_ = true;
    }
    value_ = next;
    if (has_log_det_) log_det_ = total_;
    tape.release(mark);
  }

  X value_, log_det_{};
  const Pass<Scalar>& pass_;
  bool has_log_det_ = false, recording_ = false;
  X buffers_[2]{};
  X total_{};
  std::size_t turn_ = 0;
};

// Layers that are faster together than one by one. Those that take a Pass are called one by one unless they take it
// together, too.
template <class L, class X>
concept TakesPassForwardAll = requires(std::span<const L> layers, const X& z, const Pass<typename X::Scalar>& pass) {
  L::forward_all(layers, z, pass);
};
template <class L, class X>
concept TakesPassInverseAll = requires(std::span<const L> layers, const X& x, const Pass<typename X::Scalar>& pass) {
  L::inverse_all(layers, x, pass);
};
template <class L, class X>
concept HasForwardAll =
    !TakesPassForward<L, X> && requires(std::span<const L> layers, const X& z) { L::forward_all(layers, z); };
template <class L, class X>
concept HasInverseAll =
    !TakesPassInverse<L, X> && requires(std::span<const L> layers, const X& x) { L::inverse_all(layers, x); };

// Applies layers of one type one after another, the first layer first; inverse_in_turn() their inverses, the last layer
// first.
template <class L, class X>
Transformed<X> forward_in_turn(std::span<const L> layers, const X& z, const Pass<typename X::Scalar>& pass) {
  Composition<X> composition(z, pass);
  for (std::size_t i = 0; i < layers.size(); ++i)
    composition.then(i, [&](const X& v, const auto& p) { return call_forward(layers[i], v, p); });
  return composition.result();
}
template <class L, class X>
Transformed<X> inverse_in_turn(std::span<const L> layers, const X& x, const Pass<typename X::Scalar>& pass) {
  Composition<X> composition(x, pass);
  for (std::size_t i = layers.size(); i-- > 0;)
    composition.then(i, [&](const X& v, const auto& p) { return call_inverse(layers[i], v, p); });
  return composition.result();
}

inline void require_same_dim(const char* what, std::size_t layer, Index& dim, Index other) {
  require(dim == 0 || other == 0 || dim == other, what, ": layer ", layer, " has dimension ", other,
          ", the layers before it ", dim);
  if (other != 0) dim = other;
}

}  // namespace detail

/// Flows one after another: forward applies the first one first, inverse the last one first.
template <class... Layers>
struct FlowSequence {
  using Scalar = typename std::tuple_element_t<0, std::tuple<Layers...>>::Scalar;

  std::tuple<Layers...> layers;

  FlowSequence() = default;
  /// Throws invalid_argument when the layers' dimensions differ.
  explicit FlowSequence(Layers... parts) : layers(std::move(parts)...) { dim(); }

  Index dim() const {
    Index dim = 0;
    std::size_t place = 0;
    std::apply(
        [&](const auto&... layer) { (detail::require_same_dim("flow sequence", place++, dim, layer.dim()), ...); },
        layers);
    return dim;
  }
  /// Throws invalid_argument where the layers' dimensions differ.
  void check() const { dim(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("layers", self.layers);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "sequence");
  }
  template <class U>
  auto rebind() const {
    return std::apply(
        [](const auto&... layer) {
          FlowSequence<decltype(layer.template rebind<U>())...> lifted;
          lifted.layers = std::tuple(layer.template rebind<U>()...);
          return lifted;
        },
        layers);
  }

  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass = {}) const
    requires(HasForward<Layers, X> && ...)
  {
    detail::Composition<X> composition(z, pass);
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (composition.then(I, [&](const X& v, const auto& p) { return call_forward(std::get<I>(layers), v, p); }), ...);
    }(std::index_sequence_for<Layers...>{});
    return composition.result();
  }
  template <Traced X>
  X generate(const X& z, const Pass<Scalar>& pass = {}) const
    requires((HasForward<Layers, X> && ...) && (HasGenerate<Layers, X> || ...))
  {
    detail::Composition<X> composition(z, pass);
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (composition.then(I,
                        [&](const X& v, const auto& p) {
                          return Transformed<X>{diffeo::generate(std::get<I>(layers), v, p), {}};
                        }),
       ...);
    }(std::index_sequence_for<Layers...>{});
    return composition.value();
  }
  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass = {}) const
    requires(HasInverse<Layers, X> && ...)
  {
    detail::Composition<X> composition(x, pass);
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (composition.then(
           sizeof...(I) - 1 - I,
           [&](const X& v, const auto& p) { return call_inverse(std::get<sizeof...(I) - 1 - I>(layers), v, p); }),
       ...);
    }(std::index_sequence_for<Layers...>{});
    return composition.result();
  }
};

/// A run-time number of layers of one type, in the same order as FlowSequence. A layer type may offer
/// forward_all(layers, z) and inverse_all(layers, x), static and with the layers in forward order, for values of the
/// types it likes: they are then called in place of one layer after another. Where the layers take a Pass, they are
/// called only if they take it as a third argument.
template <class L>
struct Repeated {
  using Scalar = typename L::Scalar;

  std::vector<L> layers;

  /// Returns the dimension, 0 without layers.
  Index dim() const {
    Index dim = 0;
    for (std::size_t i = 0; i < layers.size(); ++i)
      detail::require_same_dim("repeated layers", i, dim, layers[i].dim());
    return dim;
  }
  /// Throws invalid_argument where the layers' dimensions differ.
  void check() const { dim(); }

  template <class Self>
  static auto fields(Self& self) {
    return diffeo::fields("", self.layers);
  }
  template <class Self>
  static auto settings(Self&) {
    return diffeo::settings("kind", "repeated");
  }
  template <class U>
  auto rebind() const {
    Repeated<decltype(layers[0].template rebind<U>())> lifted;
    for (const L& layer : layers) lifted.layers.push_back(layer.template rebind<U>());
    return lifted;
  }

  template <Traced X>
  Transformed<X> forward(const X& z, const Pass<Scalar>& pass = {}) const
    requires HasForward<L, X>
  {
    if constexpr (detail::TakesPassForwardAll<L, X>) {
      if (!layers.empty()) return L::forward_all(std::span<const L>(layers), z, pass);
    } else if constexpr (detail::HasForwardAll<L, X>) {
      if (!layers.empty()) return L::forward_all(std::span<const L>(layers), z);
    }
    return detail::forward_in_turn(std::span<const L>(layers), z, pass);
  }
  template <Traced X>
  X generate(const X& z, const Pass<Scalar>& pass = {}) const
    requires HasGenerate<L, X>
  {
    detail::Composition<X> composition(z, pass);
    for (std::size_t i = 0; i < layers.size(); ++i)
      composition.then(i, [&](const X& v, const auto& p) {
        return Transformed<X>{diffeo::generate(layers[i], v, p), {}};
      });
    return composition.value();
  }
  template <Traced X>
  Transformed<X> inverse(const X& x, const Pass<Scalar>& pass = {}) const
    requires HasInverse<L, X>
  {
    if constexpr (detail::TakesPassInverseAll<L, X>) {
      if (!layers.empty()) return L::inverse_all(std::span<const L>(layers), x, pass);
    } else if constexpr (detail::HasInverseAll<L, X>) {
      if (!layers.empty()) return L::inverse_all(std::span<const L>(layers), x);
    }
    return detail::inverse_in_turn(std::span<const L>(layers), x, pass);
  }
};

/// Returns n layers, the i-th made by make_layer(i). Throws invalid_argument for n < 0.
template <class F>
auto repeat(Index n, const F& make_layer) {
  require(n >= 0, "repeat: ", n, " layers, expected at least 0");
  Repeated<std::decay_t<decltype(make_layer(Index(0)))>> sequence;
  sequence.layers.reserve(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) sequence.layers.push_back(make_layer(i));
  sequence.dim();  // throws when the dimensions differ
  return sequence;
}

}  // namespace diffeo::inline DIFFEO_ISA
