// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/autodiff/parts.hpp>

namespace diffeo::inline DIFFEO_ISA {

/// How much parameters have changed since the buffers that derive from them were last computed.
enum class ParameterChange {
  any,         ///< anywhere: what is computed must be a function of the parameters alone
  small_step,  ///< by a step of training: may start from what was computed last
};

/// Whether a structure holds parts with buffers that are computed from parameters: such a part offers
/// refresh(ParameterChange), which computes them again. refresh() must write into the arrays that are there and not
/// replace them by arrays of another size, because lifted copies of the model refer to their memory.
template <class M>
inline constexpr bool refreshes = detail::fold_structures<M>(false, []<class P>(bool any, std::type_identity<P>) {
  return any || requires(P& part) { part.refresh(ParameterChange::any); };
});

/// Computes again all buffers that depend on parameters. set_parameters() does so itself; call it after parameters were
/// changed by hand.
template <class M>
void refresh(M& model, ParameterChange change = ParameterChange::any) {
  if constexpr (refreshes<M>) {
    detail::for_each_part(model, Path(), [&](auto& part, const Path&) { refresh(part, change); });
    if constexpr (requires { model.refresh(change); }) model.refresh(change);
  }
}

}  // namespace diffeo::inline DIFFEO_ISA
