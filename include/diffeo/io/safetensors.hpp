// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <diffeo/core/array.hpp>
#include <diffeo/core/error.hpp>
#include <diffeo/data/atomic_file.hpp>
#include <diffeo/data/npy.hpp>
#include <diffeo/data/open_file.hpp>
#include <diffeo/io/safetensors_header.hpp>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

/// Reader and writer of files of the safetensors format, which hold named arrays and texts
/// (https://github.com/huggingface/safetensors). In Python, `safetensors.numpy.load_file(path)` returns the arrays.
namespace diffeo::inline DIFFEO_ISA {

/// Returns the format's name of a scalar: F32 or F64.
template <Real S>
constexpr const char* tensor_dtype() {
  return std::is_same_v<S, float> ? "F32" : "F64";
}

/// A safetensors file that is open for reading: its header is checked and in memory, tensors are read when they are
/// asked for. Files may hold tensors of all dtypes; those of F32 and F64 with at most two dimensions can be read.
class SafetensorsFile {
 public:
  /// Opens the file and reads its header. Throws `io_error`, naming the file, if it is missing or no regular file, if
  /// its header is longer than the file or than 100 MB, and for what parse_safetensors_header() refuses. Memory is
  /// allocated only after the length of the header has been found to agree with the file's size.
  explicit SafetensorsFile(const std::string& path) : path_(path), file_(detail::open_to_read(path)) {
    const std::uint64_t file_bytes = detail::size_of_open_file(file_.get(), path);
    unsigned char start[8] = {};
    if (file_bytes < sizeof start || std::fread(start, 1, sizeof start, file_.get()) != sizeof start)
      throw io_error(concat_message(path, " is no safetensors file: it has ", file_bytes, " bytes"));
    std::uint64_t header_bytes = 0;
    for (std::size_t i = sizeof start; i-- > 0;) header_bytes = header_bytes << 8 | start[i];
    const std::uint64_t rest = file_bytes - sizeof start;
    if (header_bytes > rest || header_bytes > detail::safetensors_header_limit)
      throw io_error(concat_message(path, " is truncated or no safetensors file: its header would have ", header_bytes,
                                    " bytes, ", rest, " follow",
                                    header_bytes > rest ? "" : " and the format allows 100000000"));
    std::string text(header_bytes, '\0');
    if (std::fread(text.data(), 1, text.size(), file_.get()) != text.size())
      throw io_error(path + ": cannot read: " + detail::errno_message());
    begin_ = sizeof start + header_bytes;
    header_ = parse_safetensors_header(text, rest - header_bytes, path);
  }

  const std::string& path() const { return path_; }
  /// The tensors by name.
  const std::map<std::string, TensorInfo>& tensors() const { return header_.tensors; }
  /// The texts of `__metadata__` by name.
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  /// Returns whether a tensor of that shape can be read as rows x cols: a matrix of the same shape, a vector of D
  /// numbers as 1 x D or D x 1, a single number as 1 x 1.
  static bool fits(const std::vector<std::uint64_t>& shape, Index rows, Index cols) {
    const auto r = static_cast<std::uint64_t>(rows), c = static_cast<std::uint64_t>(cols);
    if (shape.size() == 2) return shape[0] == r && shape[1] == c;
    if (shape.size() == 1) return (r == 1 && shape[0] == c) || (c == 1 && shape[0] == r);
    return shape.empty() && r == 1 && c == 1;
  }

  /// Reads a tensor into `values`. Throws `io_error`, naming the file and the tensor, if there is none of that name,
  /// for a shape that does not fit, for another dtype than that of S unless it is to be converted, a value that S
  /// cannot hold, and if the file has become shorter since it was opened. NaN and infinity are kept. Not to be called
  /// from several threads at a time.
  template <Real S>
  void read(const std::string& name, View<S> values, bool convert_scalar = false) const {
    const TensorInfo& tensor = find(name);
    if (!fits(tensor.shape, values.rows, values.cols))
      throw io_error(concat_message(path_, ": ", name, " has shape ", detail::tensor_shape_text(tensor.shape),
                                    ", expected ", values.rows, " x ", values.cols));
    const bool known = tensor.dtype == "F32" || tensor.dtype == "F64";
    if (tensor.dtype != tensor_dtype<S>() && !(known && convert_scalar))
      throw io_error(concat_message(path_, ": ", name, " has dtype ", tensor.dtype, ", expected ", tensor_dtype<S>(),
                                    known ? "; convert_scalar converts it" : ""));
    const detail::NpyLayout layout{values.rows, values.cols, begin_ + tensor.begin, false,
                                   std::endian::native == std::endian::big};
    const detail::NpyTarget<S> target{values.data, 1, values.stride};
    const auto read_values =
        tensor.dtype == "F32" ? detail::read_npy_values<float, S> : detail::read_npy_values<double, S>;
    read_values(file_.get(), layout, 0, values.rows, target, path_ + ": " + name);
  }
  /// Returns a tensor: a matrix as it is, a vector of D numbers as 1 x D, a single number as 1 x 1. Throws as the
  /// function above, and for more than two dimensions.
  template <Real S>
  Array<S> read(const std::string& name, bool convert_scalar = false) const {
    const std::vector<std::uint64_t>& shape = find(name).shape;
    if (shape.size() > 2)
      throw io_error(concat_message(path_, ": ", name, " has ", shape.size(), " dimensions, expected at most 2"));
    for (const std::uint64_t size : shape)  // of tensors without values, whose sizes nothing else bounds
      if (size > static_cast<std::uint64_t>(std::numeric_limits<Index>::max()) / sizeof(double))
        throw io_error(concat_message(path_, ": ", name, " has an absurd shape ", detail::tensor_shape_text(shape)));
    const auto size = [&shape](std::size_t i) { return static_cast<Index>(shape[i]); };
    Array<S> values(shape.size() == 2 ? size(0) : 1, shape.empty() ? 1 : size(shape.size() - 1));
    read(name, view(values), convert_scalar);
    return values;
  }

 private:
  const TensorInfo& find(const std::string& name) const {
    const auto found = header_.tensors.find(name);
    if (found == header_.tensors.end()) throw io_error(path_ + ": there is no tensor " + detail::excerpt(name));
    return found->second;
  }

  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::uint64_t begin_ = 0;  // of the data in the file
  SafetensorsHeader header_;
};

/// An array that is to be written, of float or double.
struct NamedTensor {
  std::string name;
  std::variant<View<const float>, View<const double>> values;
};

namespace detail {

// Appends the numbers of an array to a file, row by row.
template <class S>
void write_in_row_order(AtomicFile& file, View<const S> values) {
  std::vector<S> buffer;
  constexpr std::size_t some = std::size_t{1} << 13;
  buffer.reserve(some);
  const auto flush = [&] {
    if constexpr (std::endian::native == std::endian::big)
      std::transform(buffer.begin(), buffer.end(), buffer.begin(), byte_swapped<S>);
    file.write(buffer.data(), buffer.size() * sizeof(S));
    buffer.clear();
  };
  for (Index i = 0; i < values.rows; ++i)
    for (Index j = 0; j < values.cols; ++j) {
      buffer.push_back(values.col(j)[i]);
      if (buffer.size() == some) flush();
    }
  flush();
}

}  // namespace detail

/// Writes arrays and texts as a safetensors file. An N x D array becomes a tensor of shape (N, D), which Python sees as
/// such; tensors are stored in the order of the list. The file is an AtomicFile: one that exists is untouched until the
/// new one is complete. Throws `io_error` if the file cannot be written, and invalid_argument for a name that is there
/// twice and for what safetensors_header_text() refuses.
inline void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  SafetensorsHeader header{{}, metadata};
  std::vector<std::string> names;
  std::uint64_t at = 0;
  for (const NamedTensor& tensor : tensors) {
    std::visit(
        [&]<class S>(View<const S> x) {
          const std::uint64_t bytes = static_cast<std::uint64_t>(x.size()) * sizeof(S);
          const TensorInfo info{tensor_dtype<S>(),
                                {static_cast<std::uint64_t>(x.rows), static_cast<std::uint64_t>(x.cols)},
                                at,
                                at + bytes};
          require(header.tensors.emplace(tensor.name, info).second, "write_safetensors: two tensors are called ",
                  detail::excerpt(tensor.name));
          at += bytes;
        },
        tensor.values);
    names.push_back(tensor.name);
  }
  const std::string text = safetensors_header_text(header, names);
  AtomicFile file(path);
  file.write(text.data(), text.size());
  for (const NamedTensor& tensor : tensors)
    std::visit([&file](const auto& x) { detail::write_in_row_order(file, x); }, tensor.values);
  file.commit();
}

}  // namespace diffeo::inline DIFFEO_ISA
